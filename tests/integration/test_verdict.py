"""Each reason is provoked with real rows and servers, and weighed."""

from datetime import timedelta

import pytest
from django.db import connection
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_jobs import figures, verdict
from django_jobs.engines import get_engine
from django_jobs.models import FigureDelta, Job, Lease, Queue, Worker
from django_jobs.models.counting import MOST_COUNTED
from django_jobs.searching import parse
from django_jobs.states import FINISHED, QUEUED, SCHEDULED, STARTED
from tests.conftest import fresh, make_worker

QUEUE = "file_processing"

pytestmark = pytest.mark.usefixtures("db", "valkey")


@pytest.fixture
def maintainer(db):
    """One that lives."""
    return Lease.objects.create(name="maintainer", holder="m", expires_at=Now() + timedelta(hours=1))


@pytest.fixture
def wait(job_factory):
    """A queued job that has waited for so long; handed to the server, unless asked otherwise."""

    def make(seconds=0, *, delivered=True, **values):
        epoch = get_engine("rq").epoch(QUEUE) if delivered else ""
        job = job_factory(delivered_epoch=epoch, **values)
        Job.objects.filter(pk=job.pk).update(queued_at=Now() - timedelta(seconds=seconds))
        return job

    return make


def listening(**values):
    return make_worker(**{"queues": [QUEUE], **values})


def ended(finished, failed, hours_ago=0.5):
    """So many attempts ended so at that time."""
    at = timezone.now() - timedelta(hours=hours_ago)
    for outcome, amount in (("finished", finished), ("failed", failed)):
        FigureDelta.objects.create(at=at, queue=QUEUE, task="t", outcome=outcome, amount=amount)
    figures.fold()


def texts():
    return [reason.text for reason in verdict.examine().reasons]


def test_nothing_at_all_is_ok():
    now = verdict.examine()

    assert (now.level, now.reasons) == ("ok", [])
    assert (now.running, now.waiting, now.failed_last_hour, now.workers) == (0, 0, 0, 0)
    assert now.oldest_waiting_seconds is None
    assert now.undelivered == 0


def test_a_job_that_a_worker_will_take_is_ok(maintainer, wait):
    listening()
    wait(20)
    wait(status=FINISHED)

    now = verdict.examine()

    assert (now.level, now.reasons) == ("ok", [])
    assert now.waiting == 1
    assert 19 < now.oldest_waiting_seconds < 60


def test_jobs_that_wait_where_no_worker_listens_are_stalled(maintainer, wait):
    listening(queues=["vectorization"])
    wait()
    wait()

    now = verdict.examine()

    assert now.level == "stalled"
    assert [reason.text for reason in now.reasons] == [
        "No live worker listens on file_processing, where 2 jobs wait."
    ]
    assert [(queue.name, queue.trouble, queue.waiting) for queue in now.queues] == [(QUEUE, "untaken", 2)]


def test_a_queue_that_is_stuck_tells_how_many_wait_there_and_since_when(maintainer, wait):
    listening(state=Worker.State.IDLE)
    first = wait(400)
    wait()
    wait()

    [queue] = verdict.examine().queues

    assert (queue.name, queue.trouble, queue.waiting) == (QUEUE, "stuck", 3)
    assert queue.since == fresh(first).queued_at


def test_a_queue_that_nobody_declares_tells_since_when_jobs_wait_there(maintainer, wait):
    first = wait(400, queue="nobodys")

    [queue] = verdict.examine().queues

    assert (queue.trouble, queue.waiting, queue.since) == ("undeclared", 1, fresh(first).queued_at)


@pytest.mark.parametrize("values", [{"state": Worker.State.QUIET}, {"order": Worker.Order.QUIET}])
def test_a_quiet_worker_does_not_listen(maintainer, wait, values):
    listening(**values)
    wait()

    assert "No live worker listens" in texts()[0]


def test_what_stands_still_on_one_queue_is_degraded_while_a_worker_runs_another(
    maintainer, wait, job_factory
):
    job_factory(status=STARTED, queue="vectorization")
    wait()

    assert verdict.examine().level == "degraded"


def test_a_job_of_a_silent_worker_does_not_count_as_running(maintainer, wait, job_factory):
    job_factory(status=STARTED, worker=make_worker(leased_until=Now() - timedelta(days=2)))
    wait()

    assert verdict.examine().level == "stalled"


def test_what_stands_still_is_degraded_while_jobs_end(maintainer, wait, job_factory):
    job_factory(status=FINISHED, finished_at=Now())
    wait()

    assert verdict.examine().level == "degraded"


def test_jobs_on_a_queue_that_is_not_declared_are_told(maintainer, wait):
    listening()
    name = 'a "strange" \\ queue'
    wait(queue=name)

    now = verdict.examine()

    assert now.level == "stalled"
    assert now.reasons[0].text == f"1 job waits on {name}, a queue that is not declared."
    assert parse(now.reasons[0].query).apply(Job.objects.all()).count() == 1


def test_a_server_that_is_away_is_told_with_the_time_since_when(maintainer, settings, job_factory):
    settings.RQ_QUEUES = {
        name: {**queue, "URL": "redis://127.0.0.1:1/0"} for name, queue in settings.RQ_QUEUES.items()
    }
    listening()

    first, second = verdict.examine(), verdict.examine()

    assert first.level == "degraded"
    assert "redis://127.0.0.1:1/0 cannot be reached" in first.reasons[0].text
    assert second.reasons == first.reasons
    assert first.undelivered is None

    job_factory()

    assert verdict.examine().level == "stalled"


def test_a_server_that_is_back_is_told_no_more(maintainer, valkey, settings):
    declared = settings.RQ_QUEUES
    settings.RQ_QUEUES = {name: {**queue, "URL": "redis://127.0.0.1:1/0"} for name, queue in declared.items()}
    assert verdict.examine().level == "degraded"

    settings.RQ_QUEUES = declared

    assert verdict.examine().level == "ok"


def test_no_server_is_asked_where_jobs_run_at_commit(unasked_server, settings):
    settings.DJANGO_JOBS = {**settings.DJANGO_JOBS, "IMMEDIATE": True}

    now = verdict.examine()

    assert (now.level, now.undelivered) == ("ok", None)


def test_jobs_long_undelivered_are_told(maintainer, wait, job_factory):
    listening()
    job_factory(status=STARTED)
    wait(11, delivered=False)
    wait(40, delivered=False, queue="vectorization")
    listening(queues=["vectorization"])

    now = verdict.examine()

    assert now.level == "degraded"
    assert now.undelivered == 2
    assert now.reasons[0].text.startswith("2 jobs are queued and not delivered, the first since ")


def test_a_queue_with_undelivered_jobs_tells_how_many_wait_there_and_not_how_many_of_them_are_undelivered(
    maintainer, wait, job_factory
):
    busy = listening(state=Worker.State.BUSY)
    job_factory(status=STARTED, worker=busy)
    wait(40, delivered=False)
    wait()
    wait()

    [queue] = verdict.examine().queues

    assert (queue.trouble, queue.waiting) == ("undelivered", 3)


@pytest.mark.parametrize("epoch", ["0", "zzz"])
def test_deliveries_of_another_epoch_are_none(maintainer, wait, epoch):
    listening()
    job = wait(40)
    Job.objects.filter(pk=job.pk).update(delivered_epoch=epoch)

    assert verdict.examine().undelivered == 1


def test_jobs_just_queued_and_those_of_a_paused_queue_need_no_delivery(maintainer, wait):
    listening()
    Queue.objects.create(name="vectorization", paused=True)
    wait(5, delivered=False)
    wait(40, delivered=False, queue="vectorization")

    assert verdict.examine().undelivered == 0


@pytest.mark.parametrize("state", [SCHEDULED, STARTED])
def test_a_missing_maintainer_is_told_where_there_is_work(job_factory, state):
    assert verdict.examine().level == "ok"

    job_factory(status=state)

    assert [reason.text for reason in verdict.examine().reasons] == [
        "No maintainer runs: what is due, undelivered or lost is left as it is, and figures and errors stand "
        "still."
    ]
    assert verdict.examine().level == "degraded"


def test_failures_that_no_maintainer_counts_are_not_known(job_factory):
    ended(0, 3)
    job_factory(status=STARTED)
    assert verdict.examine().failed_last_hour == 3  # Nothing has ended since.

    delta = FigureDelta.objects.create(queue=QUEUE, task="t", outcome="failed", amount=1)
    assert verdict.examine().failed_last_hour is None

    Lease.objects.create(name="maintainer", holder="m", expires_at=Now() + timedelta(hours=1))
    assert verdict.examine().failed_last_hour == 3
    assert fresh(delta)


def test_a_worker_that_went_silent_is_told_for_an_hour(maintainer):
    gone = make_worker(
        name="w7",
        hostname="h7",
        leased_until=Now() - timedelta(minutes=9),
        seen_at=Now() - timedelta(minutes=10),
    )

    now = verdict.examine()

    assert (now.level, now.silent) == ("degraded", 1)
    assert now.reasons[0].text.startswith("1 worker went silent without saying goodbye, at ")

    Worker.objects.filter(pk=gone.pk).update(seen_at=Now() - timedelta(minutes=61))

    assert verdict.examine().level == "ok"


def test_failures_more_than_twice_as_frequent_as_yesterday_are_told(maintainer):
    ended(82, 18)
    ended(98, 2, hours_ago=24.5)

    now = verdict.examine()

    assert (now.level, now.failed_last_hour) == ("degraded", 18)
    assert now.reasons[0].text == (
        "18 % of the attempts of the last hour failed, against 2 % in the same hour yesterday."
    )


def test_failures_without_a_yesterday_are_told(maintainer):
    ended(82, 18)

    assert texts() == ["18 % of the attempts of the last hour failed."]


@pytest.mark.parametrize(
    ("now", "yesterday"),
    [((18, 1), (100, 0)), ((982, 18), (1000, 0)), ((82, 18), (90, 10))],
    ids=["too few to tell", "too few of many", "as yesterday"],
)
def test_failures_as_usual_are_not_told(maintainer, now, yesterday):
    ended(*now)
    ended(*yesterday, hours_ago=24.5)

    assert texts() == []


def test_a_job_that_waits_for_long_beside_an_idle_worker_is_stalled(maintainer, wait, job_factory):
    listening()
    job_factory(status=STARTED, queue="vectorization")
    wait(301)

    now = verdict.examine()

    assert now.level == "stalled"
    assert now.reasons[0].text.startswith("A job waits on file_processing since ")


def test_a_job_that_waits_for_long_behind_busy_workers_is_ok(maintainer, wait):
    listening(state=Worker.State.BUSY)
    wait(301)

    assert verdict.examine().level == "ok"


def test_a_paused_queue_is_worth_a_note_and_ok(maintainer, wait):
    Queue.objects.create(name=QUEUE, paused=True)
    wait(600)

    now = verdict.examine()

    assert now.level == "ok"
    assert [reason.text for reason in now.reasons] == ["file_processing is paused, and 1 job waits on it."]
    assert now.oldest_waiting_seconds is None


def test_the_worst_reason_comes_first(wait):
    Queue.objects.create(name="vectorization", paused=True)
    wait(queue="vectorization")
    wait()

    assert [reason.level for reason in verdict.examine().reasons] == ["stalled", "degraded", "ok"]


def test_it_costs_no_more_for_many_rows(maintainer, wait, django_assert_num_queries):
    make_worker(leased_until=Now() - timedelta(minutes=1))
    ended(82, 18)
    wait(40, delivered=False)
    wait()
    with CaptureQueriesContext(connection) as few:
        verdict.examine()
    assert len(few) <= 8
    many = range(verdict.MOST_TOLD + 100)
    Job.objects.bulk_create(
        Job(task="t", queue=QUEUE, status=state) for state in (QUEUED, FINISHED) for _ in many
    )
    Job.objects.update(queued_at=Now() - timedelta(minutes=1))

    with django_assert_num_queries(len(few)):
        now = verdict.examine()

    assert now.undelivered == verdict.MOST_TOLD


def test_counts_end_and_say_so():
    assert verdict.capped(MOST_COUNTED - 1) == "9,999"
    assert verdict.capped(MOST_COUNTED) == "10,000+"
    assert verdict.capped(2_000, 1_000) == "1,000+"


def test_what_was_found_within_a_second_is_not_looked_for_again(wait, django_assert_num_queries):
    wait()
    first = verdict.lately()

    with django_assert_num_queries(0):
        assert verdict.lately() == first
