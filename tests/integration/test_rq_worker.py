"""Our worker class as others use RQ's: from Python, more than once."""

import signal

import pytest
from django.utils import timezone
from rq import Queue as RQQueue

from django_jobs.engines.rq.prefork import PreforkWorker
from django_jobs.engines.rq.starting import make_worker
from django_jobs.models import Worker

QUEUES = ["file_processing"]


@pytest.fixture(autouse=True)
def _signals_as_they_were():
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_a_worker_can_be_told_to_work_again(transactional_db, valkey):
    worker, rows = make_worker(QUEUES, run_maintainer=None), []
    worker.check_for_suspension = lambda burst: rows.append(Worker.objects.get().pk)

    worker.work(burst=True)
    worker.work(burst=True)

    assert len(set(rows)) == 2
    assert not Worker.objects.exists()


def test_a_worker_looks_others_up_by_the_class(transactional_db, valkey):
    worker = make_worker(QUEUES, run_maintainer=None)
    worker.register_birth()

    assert type(worker).all(connection=valkey) == [worker]


def test_the_handler_of_a_second_signal_takes_the_names_that_rq_gives(transactional_db, valkey):
    worker = make_worker(QUEUES, run_maintainer=None)
    worker._shutdown_requested_date = timezone.now()

    worker.request_force_stop(signum=signal.SIGTERM, frame=None)  # Within a second, so it is ignored.


def test_a_burst_runs_what_its_jobs_enqueue(transactional_db, valkey):
    queue = RQQueue("file_processing", connection=valkey)
    first = queue.enqueue(len, "one")
    second = queue.enqueue(len, "two", depends_on=first)

    make_worker(QUEUES, worker_class=PreforkWorker, run_maintainer=None).work(burst=True)

    assert (first.get_status(), second.get_status()) == ("finished", "finished")


def test_an_unknown_strategy_is_refused_before_anything_is_taken(transactional_db, valkey):
    worker = make_worker(QUEUES, worker_class=PreforkWorker, run_maintainer=None)

    with pytest.raises(ValueError, match="no_such"):
        worker.work(burst=True, dequeue_strategy="no_such")
