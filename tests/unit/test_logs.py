"""Log records tell the job that they are about, whoever makes and whoever formats them."""

import copy
import io
import logging
import logging.handlers
import pickle
import queue
import threading
from types import SimpleNamespace

import pytest

from django_jobs import logs

FIELDS = "%(job_id)s %(task)s %(queue)s %(attempt)s: %(message)s"
JOB = SimpleNamespace(pk="019c", task="shop.tasks.pay", queue="mail", attempt=2)
OTHER = SimpleNamespace(pk="019d", task="shop.tasks.ship", queue="mail", attempt=1)


@pytest.fixture
def installed():
    before = logging.getLogRecordFactory()
    logs.install()
    yield
    logging.setLogRecordFactory(before)


@pytest.fixture
def told():
    """What a handler writes whose format names the fields."""
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(logging.Formatter(FIELDS))
    logging.getLogger("shop").addHandler(handler)
    yield handler.stream.getvalue
    logging.getLogger("shop").removeHandler(handler)


def warn(message, **options):
    logging.getLogger("shop.pages").warning(message, **options)


def in_a_thread(function):
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def test_a_record_tells_its_job_and_a_dash_outside(installed, told):
    warn("before")
    with logs.telling(JOB):
        warn("meanwhile")
    warn("after")

    assert told() == "- - - -: before\n019c shop.tasks.pay mail 2: meanwhile\n- - - -: after\n"


@pytest.mark.parametrize(("style", "form"), [("{", "{job_id} {message}"), ("$", "$job_id $message")])
def test_every_style_of_format_may_name_the_fields(installed, style, form):
    formatter = logging.Formatter(form, style=style)

    with logs.telling(JOB):
        record = logging.makeLogRecord({"msg": "hello"})

    assert formatter.format(record) == "019c hello"


@pytest.mark.parametrize("name", ["job_id", "task", "queue", "attempt"])
def test_code_that_gives_such_a_field_itself_is_not_disturbed_and_keeps_its_own(installed, told, name):
    with logs.telling(JOB):
        warn("mine", extra={name: "OWN"})

    own = {"job_id": "019c", "task": "shop.tasks.pay", "queue": "mail", "attempt": "2", name: "OWN"}
    assert told() == f"{' '.join(own.values())}: mine\n"


def test_a_thread_of_the_only_job_tells_it(installed, told):
    with logs.telling(JOB), logs.telling(JOB):
        in_a_thread(lambda: warn("beside"))

    assert told().startswith("019c ")


def test_a_thread_beside_two_jobs_tells_none_but_each_job_its_own(installed, told):
    def other():
        with logs.telling(OTHER):
            warn("other")
            in_a_thread(lambda: warn("whose?"))

    with logs.telling(JOB):
        in_a_thread(other)
        warn("mine")

    assert [line.split()[0] for line in told().splitlines()] == ["019d", "-", "019c"]


def test_a_record_formatted_later_and_elsewhere_tells_the_job_it_was_made_in(installed, told):
    [handler] = logging.getLogger("shop").handlers
    memory = logging.handlers.MemoryHandler(10, flushLevel=logging.CRITICAL, target=handler)
    logging.getLogger("other").addHandler(memory)
    try:
        with logs.telling(JOB):
            logging.getLogger("other").warning("kept")
        memory.flush()
    finally:
        logging.getLogger("other").removeHandler(memory)

    assert told() == "019c shop.tasks.pay mail 2: kept\n"


def test_a_record_goes_through_a_queue_and_a_pickle(installed):
    records = queue.Queue()
    with logs.telling(JOB):
        record = logging.makeLogRecord({"msg": "hello %s", "args": ("you",)})
        logging.handlers.QueueHandler(records).handle(record)
    formatter = logging.Formatter(FIELDS)

    for each in (records.get(), pickle.loads(pickle.dumps(record)), copy.copy(record)):
        assert formatter.format(each) == "019c shop.tasks.pay mail 2: hello you"


def test_a_record_is_still_what_another_factory_made_of_it(told):
    class Special(logging.LogRecord):
        pass

    def make(*args, **kwargs):
        record = Special(*args, **kwargs)
        record.host = "web1"
        return record

    before = logging.getLogRecordFactory()
    logging.setLogRecordFactory(make)
    try:
        logs.install()
        logs.install()
        with logs.telling(JOB):
            record = logging.makeLogRecord({"msg": "hello"})
    finally:
        logging.setLogRecordFactory(before)

    assert isinstance(record, Special)
    assert logging.Formatter("%(host)s %(job_id)s").format(record) == "web1 019c"


def test_what_a_worker_logs_is_masked_if_it_is_to_be_at_write(installed, told, settings):
    settings.DJANGO_JOBS = {**settings.DJANGO_JOBS, "REDACT_AT_WRITE": True}

    with logs.telling(JOB):
        try:
            raise ValueError("password=hunter2 is refused")
        except ValueError as error:
            warn("It failed with token=abc123", exc_info=error)

    assert "It failed with token=********" in told()
    assert "ValueError: password=******** is refused" in told()
    assert "hunter2" not in told()


def test_what_a_worker_logs_is_as_it_was_logged_otherwise(installed, told):
    warn("password=hunter2", exc_info=ValueError("token=abc123"))

    assert "password=hunter2" in told()
    assert "token=abc123" in told()


def test_the_filter_does_the_same_for_the_records_of_a_handler(told):
    [handler] = logging.getLogger("shop").handlers
    handler.addFilter(logs.JobFilter())

    warn("outside")
    with logs.telling(JOB):
        warn("inside")
        warn("mine", extra={"task": "OWN"})

    assert told() == ("- - - -: outside\n019c shop.tasks.pay mail 2: inside\n019c OWN mail 2: mine\n")
