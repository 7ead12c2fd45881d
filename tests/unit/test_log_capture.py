import logging
import threading
import tracemalloc

from django_jobs.reporter import LOG_LIMIT, LogCapture


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
