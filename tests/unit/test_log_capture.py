import logging
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

from django_jobs import logs
from django_jobs.models import Job
from django_jobs.reporter import LIVE_LOG_LIMIT, LOG_LIMIT, LogCapture, Reporter


def record(message, *args, level=logging.INFO):
    return logging.LogRecord("app", level, __file__, 1, message, args, None)


def test_records_become_lines_with_time_level_and_logger():
    capture = LogCapture()

    capture.handle(record("read %s pages", 3))
    capture.handle(record("slow", level=logging.WARNING))

    first, second = capture.text().splitlines()
    assert first.endswith(" INFO app: read 3 pages")
    assert second.endswith(" WARNING app: slow")


def test_nothing_logged_is_nothing_told():
    assert LogCapture().text() == ""


def test_only_the_end_of_much_is_kept():
    capture = LogCapture()

    for number in range(3000):
        capture.handle(record("%s %s", number, "x" * 100))

    head, *lines = capture.text().splitlines()
    assert head == f"… {3000 - len(lines)} earlier records cut …"
    assert "2999 xxx" in lines[-1]
    assert sum(len(line) + 1 for line in lines) <= LOG_LIMIT


def test_the_end_of_much_is_told_while_it_goes_on():
    capture = LogCapture()

    for number in range(1000):
        capture.handle(record("%s %s", number, "x" * 100))

    head, *lines = capture.end().splitlines()
    assert head == f"… {1000 - len(lines)} earlier records cut …"
    assert lines == capture.text().splitlines()[-len(lines) :]
    assert LIVE_LOG_LIMIT - 200 < sum(len(line) + 1 for line in lines) <= LIVE_LOG_LIMIT


def test_a_hundred_megabytes_take_no_more_room_than_little():
    capture = LogCapture()

    tracemalloc.start()
    for number in range(100):
        capture.handle(record("%s %s", number, "x" * 1_000_000))
    _, most_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert most_bytes < 10_000_000
    assert capture.text().startswith("… 99 earlier records cut …\n")


def test_a_record_that_cannot_be_formatted_does_no_harm(capsys):
    capture = LogCapture()

    capture.handle(record("%d pages", "three"))
    capture.handle(record("after"))

    assert capture.text().endswith("after")
    assert "Logging error" in capsys.readouterr().err


def test_the_text_can_be_read_while_others_log():
    capture, stop = LogCapture(), threading.Event()

    def log_on():
        while not stop.is_set():
            capture.handle(record("x" * 5000))

    threads = [threading.Thread(target=log_on) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        assert all(len(capture.text()) < LOG_LIMIT + 100 for _ in range(300))
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def told_of_two(*, log_of_the_second, log_without_context=lambda: None):
    """What two jobs that run at the same time in one process tell, after the first has logged "first"."""
    first, second = Reporter(Job(), live=False), Reporter(Job(), live=False)
    with ThreadPoolExecutor(1) as other_thread:

        def second_runs():
            with second.recording():
                log_of_the_second()
                begun.set()
                ended.wait(60)

        begun, ended = threading.Event(), threading.Event()
        with first.recording():
            running = other_thread.submit(second_runs)
            assert begun.wait(60)
            warn("first")
            log_without_context()
            ended.set()
            running.result(60)
    assert not [each for each in logging.getLogger().handlers if type(each).__name__ == "_Distributor"]
    return [message_of(reporter) for reporter in (first, second)]


def warn(message):
    logging.getLogger("app").warning(message)


def message_of(reporter):
    return reporter.log_text().rpartition("app: ")[2]


def in_a_thread(function):
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def test_each_of_two_jobs_in_a_process_tells_its_own_records():
    assert told_of_two(log_of_the_second=lambda: warn("second")) == ["first", "second"]


def test_records_of_a_thread_without_context_are_told_of_none_of_two():
    told = told_of_two(
        log_of_the_second=lambda: None, log_without_context=lambda: in_a_thread(lambda: warn("whose"))
    )

    assert told == ["first", ""]


def test_records_of_a_thread_without_context_are_told_of_the_only_job():
    reporter = Reporter(Job(), live=False)

    with reporter.recording():
        in_a_thread(lambda: warn("its own"))

    assert message_of(reporter) == "its own"


def test_records_about_another_job_are_not_told_of_the_only_one_that_runs():
    reporter = Reporter(Job(), live=False)

    def tell_of_another():
        with logs.telling(SimpleNamespace(pk=1, task="a", queue="b", attempt=1)):
            warn("of another")

    with reporter.recording():
        in_a_thread(tell_of_another)

    assert reporter.log_text() == ""
