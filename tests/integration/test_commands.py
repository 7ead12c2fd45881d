"""The commands that look and steer: what they do, and what they print for pipes and programs."""

import json
import signal
from datetime import timedelta
from io import StringIO

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db.models.functions import Now
from django.utils import timezone

from django_jobs import embedded, monitor, relay
from django_jobs.environment import default_rq_queues, embedded_directory
from django_jobs.management import terminal
from django_jobs.models import Job, Queue, counting
from django_jobs.models.tallies import tally
from django_jobs.states import CANCELED, DEFERRED, FAILED, FINISHED, QUEUED, SCHEDULED, STARTED
from tests import tasks
from tests.conftest import fresh, make_worker

pytestmark = pytest.mark.usefixtures("valkey")


def run(command, *arguments):
    """What the command prints."""
    out = StringIO()
    call_command(command, *map(str, arguments), stdout=out, stderr=StringIO())
    return out.getvalue()


def told(command, *arguments):
    """What the command tells programs."""
    return json.loads(run(command, "--json", *arguments))


def statuses(*jobs):
    return [fresh(job).status for job in jobs]


@pytest.fixture
def failed_factory(job_factory):
    def make(**values):
        values.setdefault("error_type", "ValueError")
        values.setdefault("finished_at", Now())
        return job_factory(status=FAILED, **values)

    return make


def queue_figures():
    return {queue["name"]: queue for queue in told("jobs_status")["queues"]}


def test_status_counts_the_jobs_of_each_queue(job_factory):
    job_factory()
    job_factory(status=STARTED, queue="vectorization")
    tally({("file_processing", FAILED): 1})

    queues = queue_figures()

    assert (queues["file_processing"]["queued"], queues["file_processing"]["failed"]) == (1, 1)
    assert queues["vectorization"]["started"] == 1
    assert queues["kg_extraction"]["queued"] == 0


def test_status_tells_what_is_delivered(transactional_db, job_factory):
    tasks.add.enqueue(1)
    relay.run_once()
    job_factory()

    assert queue_figures()["file_processing"]["undelivered"] == 1


def test_status_tells_a_silent_worker_from_a_live_one(db):
    make_worker(name="here", queues=["file_processing"])
    make_worker(name="gone", queues=["file_processing"], leased_until=Now())

    status = told("jobs_status")

    assert [(worker["name"], worker["alive"]) for worker in status["workers"]] == [
        ("gone", False),
        ("here", True),
    ]
    assert [queue["workers"] for queue in status["queues"]] == [1, 0, 0]


def test_status_as_text_is_a_table_and_says_what_is_missing(db):
    Queue.objects.create(name="vectorization", paused=True)

    printed = run("jobs_status")

    assert printed.splitlines()[0].split() == [
        *("queue", "queued", "scheduled", "deferred", "started", "failed", "undelivered", "workers")
    ]
    assert "vectorization (paused)" in printed
    assert "No worker runs; start one with: manage.py rqworker" in printed


@pytest.mark.parametrize("command", ["jobs_status", "list_queues"])
def test_without_redis_the_database_and_the_masked_url_are_told(db, capsys, monkeypatch, command):
    unreachable = {"file_processing": {"URL": "redis://:secret@127.0.0.1:1/0"}}
    monkeypatch.setattr(settings, "RQ_QUEUES", unreachable)

    call_command(command)

    printed = capsys.readouterr()
    assert "file_processing  0" in printed.out
    assert "Redis at redis://:***@127.0.0.1:1/0" in printed.err
    assert "secret" not in printed.out + printed.err


@pytest.mark.parametrize("command", ["jobs_status", "list_queues"])
def test_jobs_on_a_queue_that_nobody_declares_are_told(job_factory, capsys, command):
    for queue in ("aaa", "gone", "zzz"):
        job_factory(queue=queue)

    call_command(command)

    printed = capsys.readouterr()
    assert [line.split()[:2] for line in printed.out.splitlines() if "gone" in line] == [["gone", "1"]]
    assert "Jobs wait on the queue gone, which RQ_QUEUES does not declare." in printed.err
    assert {"aaa", "gone", "zzz"} < queue_figures().keys()


@pytest.fixture
def alarm():
    """What would go on for ever is ended after a minute."""

    def end(signum, frame):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("seconds", ["0", "0.05", "-1", "86401", "nan"])
def test_status_is_not_watched_more_often_than_is_good(db, alarm, seconds):
    with pytest.raises(CommandError, match=r"--watch is .*; allowed are 0\.1 to 86400 seconds"):
        run("jobs_status", f"--watch={seconds}")


def test_queues_are_listed_with_all_that_became_of_their_jobs(job_factory):
    job_factory()
    tally({("file_processing", FINISHED): 7, ("file_processing", CANCELED): 2})
    make_worker(queues=["file_processing"])

    [listed] = [queue for queue in told("list_queues") if queue["name"] == "file_processing"]

    assert {name: listed[name] for name in ("queued", "finished", "canceled", "workers", "paused")} == {
        "queued": 1,
        "finished": 7,
        "canceled": 2,
        "workers": 1,
        "paused": False,
    }
    assert [line.split()[:9] for line in run("list_queues").splitlines()][:2] == [
        ["queue", "queued", "started", "finished", "failed", "deferred", "scheduled", "canceled", "workers"],
        ["file_processing", "1", "0", "7", "0", "0", "0", "2", "1"],
    ]


def test_a_count_that_stopped_says_so_and_one_that_is_exact_does_not(job_factory, monkeypatch):
    for module in (counting, terminal):
        monkeypatch.setattr(module, "MOST_COUNTED", 2)
    for _ in range(3):
        job_factory()
    tally({("file_processing", FINISHED): 5})

    [_, line, *_] = run("list_queues").splitlines()

    assert line.split()[:4] == ["file_processing", "2+", "0", "5"]


def test_workers_are_listed_with_the_job_each_runs(job_factory):
    job = job_factory(
        status=STARTED, worker=make_worker(name="w1", queues=["file_processing"], failed_count=3)
    )

    [listed] = told("list_workers")

    assert (listed["name"], listed["job_id"], listed["failed_count"]) == ("w1", str(job.pk), 3)
    assert run("list_workers").splitlines()[1].split()[:3] == ["w1", "idle", str(job.pk)]


def test_a_worker_that_went_without_saying_so_is_silent(db):
    make_worker(name="gone", leased_until=Now() - timedelta(minutes=1))

    assert run("list_workers").splitlines()[1].split()[:2] == ["gone", "silent"]
    assert [worker["alive"] for worker in told("list_workers")] == [False]


def test_no_worker_to_list_is_said(db):
    assert run("list_workers") == "No worker runs; start one with: manage.py rqworker\n"
    assert told("list_workers") == []


def test_failed_jobs_are_listed_newest_first(failed_factory, job_factory):
    older = failed_factory(error_message="no such file")
    newer = failed_factory(attempt=3)
    job_factory(status=STARTED)

    listed = told("list_failed")

    assert [(job["id"], job["attempts"], job["error"]) for job in listed] == [
        (str(newer.pk), 3, "ValueError"),
        (str(older.pk), 1, "ValueError: no such file"),
    ]


def test_an_error_is_one_line_without_what_steers_a_terminal(failed_factory):
    job = failed_factory(error_message="first\nsecond\r\x1b[2Jthird\tfourth")

    [_, line] = run("list_failed").splitlines()

    assert line.startswith(str(job.pk))
    assert line.endswith("ValueError: first second [2Jthird fourth")


def test_a_long_line_is_not_broken_in_a_pipe(failed_factory, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    failed_factory(error_message="x" * 1000)

    [_, line] = run("list_failed").splitlines()

    assert line.endswith("x" * 1000)


def test_the_list_ends_at_its_limit_and_says_so(failed_factory, capsys):
    jobs = [failed_factory() for _ in range(3)]

    call_command("list_failed", "--limit", "2")

    printed = capsys.readouterr()
    assert [line.split()[0] for line in printed.out.splitlines()[1:]] == [str(job.pk) for job in jobs[:0:-1]]
    assert "The newest 2 of 3; --limit shows more." in printed.err


def test_no_failed_job_is_said(db):
    assert run("list_failed") == "No such job.\n"
    assert told("list_failed") == []


@pytest.fixture
def different(failed_factory):
    """Failed jobs, no two alike, by name."""
    return {
        "plain": failed_factory(),
        "other queue": failed_factory(queue="vectorization"),
        "other task": failed_factory(task="tests.tasks.fail"),
        "other type": failed_factory(error_type="JobTimeoutException"),
        "other message": failed_factory(error_message="Read TIMEOUT of 5 s"),
        "old": failed_factory(finished_at=Now() - timedelta(hours=3)),
    }


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ("--queue vectorization", ["other queue"]),
        ("--task tests.tasks.fail", ["other task"]),
        ("--error timeout", ["other type", "other message"]),
        ("--error Valu --task tests.tasks.fail", ["other task"]),
        ("--since 2h", ["plain", "other queue", "other task", "other type", "other message"]),
        ("--since 2h --error timeout --queue vectorization", []),
    ],
)
def test_filters_choose_the_same_jobs_for_the_list_and_for_the_requeue(different, filters, names):
    chosen = {str(different[name].pk) for name in names}

    assert {job["id"] for job in told("list_failed", *filters.split())} == chosen
    assert {job["id"] for job in told("requeue_failed", "--dry-run", *filters.split())["jobs"]} == chosen
    run("requeue_failed", *filters.split())

    assert {str(job.pk) for job in Job.objects.queued()} == chosen


@pytest.mark.parametrize("ago", ["90s", "3m", "2h", "1d", "1w"])
def test_since_takes_a_duration(failed_factory, ago):
    span = {"90s": 90, "3m": 180, "2h": 7200, "1d": 86_400, "1w": 604_800}[ago]
    failed_factory(finished_at=Now() - timedelta(seconds=span + 30))
    within = failed_factory(finished_at=Now() - timedelta(seconds=span - 30))

    assert [job["id"] for job in told("list_failed", "--since", ago)] == [str(within.pk)]


def test_since_takes_a_moment_in_the_projects_time_zone(failed_factory, settings):
    settings.TIME_ZONE = "Asia/Tokyo"
    noon = timezone.datetime(2026, 1, 31, 12, tzinfo=timezone.get_default_timezone())
    failed_factory(finished_at=noon - timedelta(seconds=1))
    after = failed_factory(finished_at=noon)
    failed_factory(finished_at=noon - timedelta(days=1))

    def since(moment):
        return [job["id"] for job in told("list_failed", "--since", moment)]

    assert since("2026-01-31T12:00") == since("2026-01-31T03:00Z") == [str(after.pk)]
    assert len(since("2026-01-31")) == 2
    assert len(since("2026-01-30")) == 3


@pytest.mark.parametrize(
    "junk", ["yesterday", "2", "-2h", "2 h", "1.5h", "36501d", "999999999w", "2026-13-01", "2026-01-31T25:00"]
)
def test_since_of_no_use_is_told_with_what_is_allowed(db, junk):
    with pytest.raises(
        CommandError, match=f'--since is "{junk}"; allowed are .*90m, 2h, 3d .*2026-01-31T08:00'
    ):
        run("list_failed", f"--since={junk}")


@pytest.mark.parametrize("command", ["list_failed", "requeue_failed", "jobs_cancel"])
def test_what_is_misspelled_is_told_with_what_was_meant(db, command):
    with pytest.raises(CommandError, match='Did you mean "file_processing"'):
        run(command, "--queue", "file_procesing")
    with pytest.raises(
        CommandError, match=r'Unknown task "tests\.tasks\.ad"; did you mean "tests\.tasks\.add"'
    ):
        run(command, "--task", "tests.tasks.ad")


@pytest.mark.parametrize("command", ["list_failed", "requeue_failed", "jobs_cancel"])
def test_an_empty_filter_chooses_nothing_rather_than_everything(failed_factory, job_factory, command):
    jobs = failed_factory(), job_factory()

    with pytest.raises(CommandError, match="--queue is empty; give it a value or leave it out"):
        run(command, "--queue", "", "--task", "tests.tasks.add")

    assert statuses(*jobs) == [FAILED, QUEUED]


@pytest.mark.parametrize("limit", ["0", "-1"])
def test_a_limit_of_no_use_is_told_with_what_is_allowed(db, limit):
    with pytest.raises(CommandError, match=f"--limit is {limit}; allowed is a whole number from 1"):
        run("list_failed", "--limit", limit)


def test_requeue_failed_takes_ids(failed_factory):
    chosen, other = failed_factory(), failed_factory()

    assert run("requeue_failed", chosen.pk) == "1 failed job requeued.\n"

    assert statuses(chosen, other) == [QUEUED, FAILED]


def test_requeue_failed_takes_all(failed_factory):
    jobs = [failed_factory(), failed_factory(queue="vectorization")]

    assert run("requeue_failed", "--all") == "2 failed jobs requeued.\n"

    assert statuses(*jobs) == [QUEUED, QUEUED]


def test_requeue_failed_takes_the_oldest_up_to_a_limit(failed_factory, monkeypatch):
    monkeypatch.setattr(monitor, "PAGE", 2)
    jobs = [failed_factory() for _ in range(5)]

    assert told("requeue_failed", "--all", "--limit", 3) == {"done": 3, "refused": {}}

    assert statuses(*jobs) == [QUEUED, QUEUED, QUEUED, FAILED, FAILED]


def test_requeue_failed_counts_what_was_refused_and_why(failed_factory, job_factory):
    job_factory(unique_key="file:42")
    held, free = failed_factory(unique_key="file:42"), failed_factory()

    assert run("requeue_failed", "--all") == "1 failed job requeued; 1 not: 1 unique key held.\n"

    assert statuses(held, free) == [FAILED, QUEUED]
    assert told("requeue_failed", "--all") == {"done": 0, "refused": {"unique key held": 1}}


def test_requeue_failed_names_what_it_could_not_requeue_and_does_the_rest(failed_factory, job_factory):
    failed, running, finished = failed_factory(), job_factory(status=STARTED), job_factory(status=FINISHED)

    with pytest.raises(CommandError) as error:
        run("requeue_failed", "nonsense", running.pk, finished.pk, failed.pk)

    assert "'nonsense' is not the id of a job" in str(error.value)
    assert f"Job {running.pk} is started, not failed; only failed jobs are requeued here." in str(error.value)
    assert f"Job {finished.pk} is finished, not failed" in str(error.value)
    assert error.value.returncode == 1
    assert statuses(failed, finished) == [QUEUED, FINISHED]


def test_a_dry_run_requeues_nothing_and_shows_the_oldest(failed_factory):
    jobs = [failed_factory() for _ in range(22)]

    [head, *lines, last] = run("requeue_failed", "--all", "--dry-run").splitlines()

    assert head.split()[0] == "id"
    assert [line.split()[0] for line in lines] == [str(job.pk) for job in jobs[:20]]
    assert last == "22 failed jobs would be requeued."
    assert told("requeue_failed", "--all", "--dry-run", "--limit", 3)["would_requeue"] == 3
    assert set(statuses(*jobs)) == {FAILED}


@pytest.mark.parametrize(
    "arguments", [[], ["--limit", "3"], ["ID", "--all"], ["ID", "--queue", "q"], ["--all", "--queue", "q"]]
)
@pytest.mark.parametrize("command", ["requeue_failed", "jobs_cancel"])
def test_which_jobs_is_to_be_said_in_one_way(db, command, arguments):
    with pytest.raises(
        CommandError, match=r"Say which jobs: ids, or filters \(--queue, --task.*\), or --all"
    ):
        run(command, *arguments)


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("requeue_failed", ["--limit", "3"]),
        ("requeue_failed", ["--dry-run"]),
        ("jobs_cancel", ["--status", "queued"]),
    ],
)
def test_what_is_for_filters_does_not_go_with_ids(failed_factory, command, option):
    job = failed_factory()

    with pytest.raises(
        CommandError, match=f"{option[0]} is for filters and --all; ids say exactly which jobs"
    ):
        run(command, job.pk, *option)

    assert statuses(job) == [FAILED]


def test_cancel_takes_ids_of_jobs_that_wait_or_run(job_factory):
    waiting, running, other = job_factory(), job_factory(status=STARTED), job_factory()

    assert run("jobs_cancel", waiting.pk, running.pk) == "2 jobs canceled or asked to stop.\n"

    assert statuses(waiting, running, other) == [CANCELED, STARTED, QUEUED]
    assert fresh(running).is_canceling


def test_cancel_names_what_it_could_not_cancel_and_does_the_rest(job_factory):
    ended, waiting = job_factory(status=FINISHED), job_factory()

    with pytest.raises(CommandError, match=f"Job {ended.pk} is finished; only jobs that have not ended"):
        run("jobs_cancel", ended.pk, waiting.pk)

    assert statuses(waiting) == [CANCELED]


def test_cancel_takes_what_waits_and_leaves_what_runs_unless_told(job_factory):
    jobs = [job_factory(status=status) for status in (QUEUED, SCHEDULED, DEFERRED, STARTED)]
    elsewhere = job_factory(queue="vectorization")

    assert told("jobs_cancel", "--queue", "file_processing") == {"done": 3, "refused": {}}
    assert statuses(*jobs, elsewhere) == [CANCELED, CANCELED, CANCELED, STARTED, QUEUED]
    assert not fresh(jobs[3]).is_canceling

    run("jobs_cancel", "--queue", "file_processing", "--status", "started")
    assert fresh(jobs[3]).is_canceling


def test_cancel_takes_states_and_a_task_and_a_limit(job_factory):
    queued, scheduled = job_factory(), job_factory(status=SCHEDULED)
    others = [job_factory(task="tests.tasks.fail", status=SCHEDULED) for _ in range(2)]

    run("jobs_cancel", "--task", "tests.tasks.add", "--status", "scheduled", "--status", "deferred")
    assert statuses(queued, scheduled, *others) == [QUEUED, CANCELED, SCHEDULED, SCHEDULED]

    run("jobs_cancel", "--task", "tests.tasks.fail", "--limit", "1")
    assert statuses(*others) == [CANCELED, SCHEDULED]


def test_cancel_of_all_wants_a_yes_where_nobody_can_be_asked(job_factory):
    jobs = [job_factory(), job_factory(queue="vectorization"), job_factory(status=STARTED)]

    with pytest.raises(CommandError, match="Nothing was canceled; --yes cancels 2 jobs of all queues"):
        run("jobs_cancel", "--all")
    assert statuses(*jobs) == [QUEUED, QUEUED, STARTED]

    run("jobs_cancel", "--all", "--yes")
    assert statuses(*jobs) == [CANCELED, CANCELED, STARTED]


def test_a_state_that_cannot_be_canceled_is_told_with_those_that_can(db):
    with pytest.raises(CommandError, match=r"'failed' \(choose from '?deferred'?, '?queued'?, .*started"):
        run("jobs_cancel", "--all", "--status", "failed")


def test_pause_and_resume_say_what_changed_and_what_waits(job_factory):
    for _ in range(2):
        job_factory()
    job_factory(queue="vectorization")

    assert run("jobs_pause", "file_processing", "vectorization", "kg_extraction").splitlines() == [
        "file_processing is paused; 2 jobs wait.",
        "vectorization is paused; 1 job waits.",
        "kg_extraction is paused; 0 jobs wait.",
    ]
    assert run("jobs_pause", "vectorization") == "vectorization was paused already; 1 job waits.\n"
    assert [queue.paused for queue in monitor.get_all_queues()] == [True, True, True]

    assert run("jobs_resume", "vectorization") == "vectorization is resumed; 1 job waits.\n"
    assert told("jobs_resume", "vectorization") == [{"queue": "vectorization", "changed": False, "queued": 1}]
    assert [queue.paused for queue in monitor.get_all_queues()] == [True, False, True]


@pytest.mark.parametrize("command", ["jobs_pause", "jobs_resume"])
def test_a_misspelled_queue_does_not_stop_the_others(db, command):
    out = StringIO()
    call_command("jobs_pause", "vectorization")

    with pytest.raises(CommandError, match='Did you mean "file_processing"'):
        call_command(command, "file_procesing", "vectorization", stdout=out)

    assert out.getvalue().startswith("vectorization ")
    assert monitor.get_task_queue("vectorization").paused == (command == "jobs_pause")
    assert not Queue.objects.filter(name="file_procesing").exists()


@pytest.fixture
def own_server(settings, monkeypatch, tmp_path):
    """A project whose queues are on its embedded server, which does not run yet: its folder."""
    for name in ("REDIS_URL", "REDIS_HOST"):
        monkeypatch.delenv(name, raising=False)
    settings.BASE_DIR, settings.DJANGO_JOBS = tmp_path, {}
    settings.RQ_QUEUES = default_rq_queues()
    yield embedded_directory()
    embedded.stop(embedded_directory())


def exit_code(*arguments):
    try:
        run(*arguments)
    except SystemExit as ending:
        return ending.code
    except CommandError as error:
        return error.returncode
    return 0


def test_the_embedded_server_is_started_told_and_stopped(own_server):
    assert exit_code("jobs_redis", "status") == 1

    assert f"{own_server} runs (pid " in run("jobs_redis", "start")

    server = embedded.find(own_server)
    assert told("jobs_redis", "status") == {
        "running": True,
        "used": True,
        "url": server.url,
        "directory": str(own_server),
        "pid": server.pid,
        "servers": [f"{server.url}?db=0"],
    }
    assert exit_code("jobs_redis", "status") == 0
    assert "is stopped; its data is kept." in run("jobs_redis", "stop")
    assert embedded.find(own_server) is None
    assert run("jobs_redis", "stop") == f"The embedded Valkey in {own_server} does not run.\n"


def test_a_second_start_of_the_embedded_server_finds_the_first(own_server):
    assert run("jobs_redis", "start") == run("jobs_redis", "start")


def test_a_project_on_another_server_is_told_so_and_gets_none_started(own_server):
    settings.RQ_QUEUES = {"default": {"URL": "redis://:secret@cache:6379/1"}}

    with pytest.raises(CommandError) as error:
        run("jobs_redis", "start")

    assert "The project's queues are on redis://:***@cache:6379/1. Nothing was started" in str(error.value)
    assert embedded.find(own_server) is None
    assert exit_code("jobs_redis", "status") == 1


def test_a_server_that_no_queue_is_on_any_more_can_still_be_stopped(own_server):
    run("jobs_redis", "start")
    settings.RQ_QUEUES = {"default": {"URL": "redis://cache:6379/1"}}

    assert run("jobs_redis", "status").splitlines()[1:] == [
        "The project's queues are on redis://cache:6379/1."
    ]
    run("jobs_redis", "stop")

    assert embedded.find(own_server) is None
