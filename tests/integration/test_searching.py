"""The list of jobs: what each condition finds, pages, and that none of them reads all rows."""

from datetime import timedelta
from uuid import UUID

import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from uuid6 import uuid7

from django_jobs.exceptions import SearchError
from django_jobs.models import Attempt, Job, counting
from django_jobs.models.tallies import tally
from django_jobs.searching import Search, conditions, counts, moment_of, page, pages, parse, strands
from django_jobs.states import CANCELED, DEFERRED, FAILED, FINISHED, QUEUED, SCHEDULED, STARTED, Status
from tests import tasks  # noqa: F401 - Its tasks are looked for.
from tests.conftest import make_worker

pytestmark = pytest.mark.django_db


def found(text, **asked):
    """The jobs of the first page; they are those that are meant of all jobs, once each in its strands."""
    jobs = page(Job.objects.all(), parse(text), **asked).jobs
    meant, ranges = parse(text).apply(Job.objects.all()), strands(Job.objects.all(), parse(text))
    assert set(jobs) == set(meant)
    assert ranges is None or sorted(job.pk for each in ranges for job in each) == sorted(
        job.pk for job in meant
    )
    return jobs


@pytest.fixture
def few_rows(monkeypatch):
    """What is looked through ends after 4 rows."""
    monkeypatch.setattr(pages, "MOST_LOOKED_THROUGH", 4)


def id_at(moment, number=0):
    return UUID(int=(int(moment.timestamp() * 1000) << 80) + (7 << 76) + (2 << 62) + number)


@pytest.mark.parametrize(
    ("text", "values", "others"),
    [
        ("status:failed", {"status": FAILED}, {"status": FINISHED}),
        ("-status:failed", {"status": FINISHED}, {"status": FAILED}),
        ("queue:mail", {"queue": "mail"}, {"queue": "mails"}),
        ("-queue:mail", {"queue": "mails"}, {"queue": "mail"}),
        ("queue:mail status:failed", {"queue": "mail", "status": FAILED}, {"queue": "mail"}),
        ("fingerprint:f1", {"status": FAILED, "fingerprint": "f1"}, {"status": FAILED, "fingerprint": "f2"}),
        ("status:failed fingerprint:f1", {"status": FAILED, "fingerprint": "f1"}, {"status": FAILED}),
        ("-fingerprint:f1", {"status": FAILED}, {"status": FAILED, "fingerprint": "f1"}),
        ("queue:mail -status:queued", {"queue": "mail", "status": FAILED}, {"queue": "mail"}),
        ("task:app.send", {"task": "app.send"}, {"task": "app.sender"}),
        ("task:fail_until", {"task": "tests.tasks.fail_until"}, {"task": "other.fail_until"}),
        ("task:tests.tasks.fail*", {"task": "tests.tasks.fail_until"}, {"task": "tests.tasks.add"}),
        ("task:*.fail_until", {"task": "tests.tasks.fail_until"}, {"task": "tests.tasks.add"}),
        ("task:*sks.fail_u*", {"task": "tests.tasks.fail_until"}, {"task": "tests.tasks.add"}),
        ("task:unheard.*", {"task": "unheard.of"}, {"task": "not.unheard.of"}),
        ("task:*.unheard", {"task": "it.is.unheard"}, {"task": "it.is.unheard.of"}),
        ("task:*.unheard.*", {"task": "it.unheard.of"}, {"task": "unheard.of"}),
        ("subject:file:42", {"subject": "file:42"}, {"subject": "file:421"}),
        ("-subject:file:42", {"subject": ""}, {"subject": "file:42"}),
        ("engine:rq", {"engine": "rq"}, {"engine": "celery"}),
        ("tag:import", {"tags": ["a", "import"]}, {"tags": ["imports", "im"]}),
        ('tag:", "', {"tags": ["a", ", "]}, {"tags": ["a", "b"]}),
        ("tag:ñ%_'\"", {"tags": ["ñ%_'\""]}, {"tags": ["ñab'\""]}),
        ("-tag:import", {"tags": []}, {"tags": ["import"]}),
        ("error:timeout", {"error_type": "TimeoutError"}, {"error_type": "Time"}),
        ('error:"not connect"', {"error_message": "Could not connect"}, {"error_message": "connect not"}),
        ("error:100%", {"error_message": "100% full"}, {"error_message": "100 percent full"}),
        ("-error:timeout", {}, {"error_message": "timeout"}),
        ("attempt:>1", {"attempt": 2}, {"attempt": 1}),
        ("attempt:2", {"attempt": 2}, {"attempt": 1}),
        ("attempt:<=1", {"attempt": 1}, {"attempt": 2}),
        ("fail_until", {"task": "tests.tasks.fail_until"}, {"task": "tests.tasks.fail"}),
        ("file:42", {"subject": "file:42"}, {"subject": "file:4"}),
        ("-file:42", {"subject": "file:4"}, {"subject": "file:42"}),
        ("status:failed task:app.send", {"status": FAILED, "task": "app.send"}, {"task": "app.send"}),
        ("task:a.b error:x", {"task": "a.b", "error_type": "x"}, {"task": "a.b", "error_type": "y"}),
    ],
)
def test_a_condition_finds_what_meets_it(job_factory, text, values, others):
    job = job_factory(**values)
    job_factory(**others)

    assert found(text) == [job]


@pytest.mark.parametrize(
    ("text", "arguments", "others"),
    [
        ("args.file_id:42", {"file_id": 42}, {"file_id": 421}),
        ("args.file_id:42", {"file_id": "42"}, {"file_id": "042"}),
        ('args.file_id:"42"', {"file_id": "42"}, {"file_id": 42}),
        ("args.ratio:1.5", {"ratio": 1.5}, {"ratio": 1.25}),
        ("args.force:true", {"force": True}, {"force": False}),
        ("args.force:true", {"force": "true"}, {"force": 1}),
        ("args.limit:null", {"limit": None}, {"limit": 0}),
        ("args.limit:null", {"limit": "null"}, {}),
        ("-args.limit:5", {}, {"limit": 5}),
        ("args.user.name:x", {"user": {"name": "x"}}, {"user.name": "x"}),
        ("args.files.1:b", {"files": ["a", "b"]}, {"files": ["b", "a"]}),
        ("args.exact:1", {"exact": 1}, {"contains": 1}),
        ("args.größe:'ß'", {"größe": "'ß'"}, {"größe": "ß"}),
        (r'args.x:"a \"quoted\" \\ %s"', {"x": 'a "quoted" \\ %s'}, {"x": "a quoted %s"}),
        ("args.x:12345678901234567890", {"x": "12345678901234567890"}, {"x": "1234567890123456789"}),
        ("args.x:1e999", {"x": "1e999"}, {"x": 1}),
        ("args.x:NaN", {"x": "NaN"}, {"x": 0}),
        ("args.x:[NaN]", {"x": "[NaN]"}, {"x": []}),
        ("args.x:[1,2]", {"x": [1, 2]}, {"x": [2, 1]}),
    ],
)
def test_a_job_is_found_by_a_keyword_argument(job_factory, text, arguments, others):
    job = job_factory(kwargs=arguments)
    job_factory(kwargs=others)

    assert found(text) == [job]


@pytest.mark.parametrize("text", ["args.right:42", "args.1:42"])
def test_a_job_is_found_by_a_positional_argument(job_factory, text):
    job = job_factory(task="tests.tasks.add", args=[7, 42])
    job_factory(task="tests.tasks.add", args=[42, 7])

    assert found(text) == [job]


@pytest.mark.parametrize("text", ["args.1:hunter2", "-args.1:hunter2", "-args.1:other"])
def test_a_positional_argument_that_is_masked_by_its_name_is_not_compared(job_factory, text):
    job = job_factory(task="tests.tasks.log_in", args=["ada", "hunter2"])
    plain = job_factory(args=[1, "hunter2"])

    assert found("args.0:ada") == [job]
    assert (job in found(text)) is text.startswith("-")
    assert (plain in found(text)) is (text != "-args.1:hunter2")


def test_a_positional_argument_of_a_function_that_is_no_task_is_not_compared_either(job_factory):
    job = job_factory(task="tests.tasks.sign_in", args=["ada", "hunter2"])

    assert found("args.0:ada") == [job]
    assert found("args.1:hunter2") == []


def test_no_place_is_compared_in_more_tasks_than_are_looked_at(job_factory, monkeypatch):
    monkeypatch.setattr(conditions, "MOST_TASKS", 2)
    jobs = [job_factory(task=task, args=[1]) for task in ("a", "a", "b", "c")]

    assert found("args.0:1") == jobs[2::-1]


def test_a_positional_argument_has_a_name_only_where_the_task_tells_it(job_factory):
    job = job_factory(task="tests.tasks.fail", args=["no such file"])
    job_factory(task="tests.tasks.first", args=["no such file"])
    job_factory(task="un.known", args=["no such file"])

    assert found('args.message:"no such file"') == [job]


def test_a_job_is_found_by_its_owner(job_factory):
    alice, eve = (get_user_model().objects.create_user(name) for name in ("alice", "eve"))
    job, by_nobody = job_factory(owner=alice), job_factory()
    job_factory(owner=eve)

    assert found("owner:alice") == [job]
    assert found("owner:mallory") == []
    assert found("owner:alice status:failed") == []
    assert by_nobody in found("-owner:alice")


def test_a_job_is_found_by_the_worker_that_runs_it_or_ran_an_attempt(job_factory):
    running = job_factory(status=STARTED, worker=make_worker(name="w7"))
    job_factory(status=STARTED, worker=make_worker(name="w8"))
    ran = job_factory(status=FINISHED)
    now = timezone.now()
    Attempt.objects.create(
        job=ran, number=1, claim_id=uuid7(), worker_name="w7", started_at=now, outcome="finished"
    )

    assert found("worker:w7") == [ran, running]
    assert found("worker:w7 status:started") == [running]
    assert found("worker:w") == []


@pytest.mark.parametrize("shape", [str, lambda pk: pk.hex[:13], lambda pk: str(pk)[:23].upper()])
def test_a_job_is_found_by_its_id_or_the_begin_of_it(job_factory, shape):
    job = job_factory()
    job_factory(id=id_at(timezone.now() - timedelta(days=1)))

    assert found(shape(job.pk)) == [job]
    assert found(f"id:{shape(job.pk)}") == [job]
    assert found(f"id:{shape(job.pk)} status:failed") == []
    assert job not in found(f"-id:{shape(job.pk)}")


def test_a_word_finds_ids_subjects_and_tasks_together(job_factory):
    jobs = [
        job_factory(subject="deadbeef"),
        job_factory(task="deadbeef"),
        job_factory(id=UUID("deadbeef" * 4)),
    ]
    job_factory()

    assert set(found("deadbeef")) == set(jobs)


def test_jobs_are_found_by_the_time_of_their_enqueue(job_factory):
    now = timezone.now()
    new, old, older = (job_factory(id=id_at(now - timedelta(hours=hours))) for hours in (1, 3, 5))

    assert found("since:2h") == [new]
    assert found("until:2h") == [old, older]
    assert found("since:4h until:2h") == [old]
    assert found("since:2h until:4h") == []
    assert found("since:4h status:queued") == [new, old]
    assert abs(moment_of(old.pk) - (now - timedelta(hours=3))) < timedelta(seconds=1)


def test_a_value_may_be_put_into_a_search_as_it_is(job_factory):
    job = job_factory(queue='a "b" -c:d')
    job_factory(queue="a")

    assert page(Job.objects.all(), Search().where("queue", job.queue)).jobs == [job]


@pytest.mark.parametrize(
    "text", ["", "status:failed", "queue:mail", "mail", "error:x", "status:failed error:x", "-status:queued"]
)
def test_pages_hold_every_job_once_and_in_order_while_others_are_enqueued(job_factory, few_rows, text):
    def enqueue(number):
        for status in (QUEUED, FAILED):
            error = "x" if number % 3 == 0 else "y"
            job_factory(status=status, queue="mail", subject="mail", error_type=error)

    for number in range(5):
        enqueue(number)
    meant = list(parse(text).apply(Job.objects.order_by("-id")))
    told, cursor, turns = [], None, 0
    while turns == 0 or cursor:
        listed = page(Job.objects.all(), parse(text), before=cursor, size=2)
        told += listed.jobs
        cursor, turns = listed.older, turns + 1
        enqueue(turns)
        assert turns < 20

    assert told == meant

    cursor, later = meant[0].pk, []
    while cursor:
        listed = page(Job.objects.all(), parse(text), after=cursor, size=2)
        later, cursor = listed.jobs + later, listed.newer

    assert later == list(parse(text).apply(Job.objects.filter(pk__gt=meant[0].pk).order_by("-id")))


def test_the_page_beside_a_page_is_found_in_both_directions(job_factory):
    jobs = [job_factory() for _ in range(6)][::-1]

    first = page(Job.objects.all(), Search(), size=2)
    second = page(Job.objects.all(), Search(), before=first.older, size=2)
    third = page(Job.objects.all(), Search(), before=second.older, size=2)
    back = page(Job.objects.all(), Search(), after=third.newer, size=2)

    assert [first.jobs, second.jobs, third.jobs, back.jobs] == [jobs[:2], jobs[2:4], jobs[4:], jobs[2:4]]
    assert (first.newer, third.older) == (None, None)
    assert page(Job.objects.all(), Search(), after=back.newer, size=2).jobs == jobs[:2]
    assert page(Job.objects.all(), Search(), after=back.newer, size=2).newer is None
    assert page(Job.objects.all(), Search(), before=back.older, size=2).jobs == jobs[4:]


def test_a_search_without_an_index_tells_to_which_moment_it_looked(job_factory, few_rows):
    now = timezone.now()
    jobs = [job_factory(id=id_at(now - timedelta(hours=hours))) for hours in range(10)]
    Job.objects.filter(pk=jobs[6].pk).update(error_type="TimeoutError")

    first = page(Job.objects.all(), parse("error:Timeout"))
    second = page(Job.objects.all(), parse("error:Timeout"), before=first.older)
    third = page(Job.objects.all(), parse("error:Timeout"), before=second.older)

    assert (first.jobs, first.looked_until) == ([], moment_of(jobs[4].pk))
    assert (second.jobs, second.looked_until) == ([jobs[6]], moment_of(jobs[8].pk))
    assert (third.jobs, third.looked_until, third.older) == ([], None, None)


def test_a_page_that_is_full_is_not_told_as_one_that_ended_early(job_factory, few_rows):
    for _ in range(10):
        job_factory(error_type="TimeoutError")

    listed = page(Job.objects.all(), parse("error:Timeout"), size=2)

    assert len(listed.jobs) == 2
    assert listed.looked_until is None
    assert listed.older == listed.jobs[-1].pk


def test_the_index_that_reaches_furthest_back_is_looked_through(job_factory, few_rows):
    job = job_factory(status=FAILED, subject="file:1", queue="mail")
    for _ in range(10):
        job_factory(subject="file:1")
        job_factory(status=FAILED)
        job_factory(status=FINISHED, queue="mail")

    assert page(Job.objects.all(), parse("status:failed subject:file:1")).jobs == []
    assert page(Job.objects.all(), parse("status:failed queue:mail subject:file:1")).jobs == [job]


def test_jobs_of_a_task_in_a_state_are_found_however_many_there_are_of_either(job_factory, few_rows):
    job = job_factory(status=FAILED, task="a.b")
    for _ in range(10):
        job_factory(task="a.b")
        job_factory(status=FAILED, task="c.d")

    assert page(Job.objects.all(), parse("status:failed task:a.b")).jobs == [job]


def test_only_jobs_that_may_be_seen_are_listed_and_counted(job_factory):
    alice = get_user_model().objects.create_user("alice")
    seen = [job_factory(owner=alice, status=FAILED), job_factory(owner=alice)][::-1]
    job_factory(status=FAILED)
    own = Job.objects.filter(owner=alice)

    assert page(own, Search()).jobs == seen
    assert page(own, parse("status:failed")).jobs == seen[1:]
    assert page(Job.objects.none(), Search()).jobs == []
    assert counts(own, Search()) is None
    assert counts(Job.objects.all(), Search().where("owner", "alice")) == {
        **dict.fromkeys(Status.values, 0),
        FAILED: 1,
        QUEUED: 1,
    }


def test_what_else_is_to_be_read_of_the_jobs_is_read_with_them(job_factory, django_assert_num_queries):
    job_factory(status=STARTED, worker=make_worker(name="w1"), result={"large": 1})

    with django_assert_num_queries(2):
        [job] = page(Job.objects.select_related("worker"), Search()).jobs
        assert (job.worker.name, job.call) == ("w1", "tests.tasks.add()")

    assert {"result", "traceback", "meta", "stages"} <= job.get_deferred_fields()


@pytest.mark.parametrize(
    "asked", [{"size": 0}, {"size": 201}, {"size": "2"}, {"before": uuid7(), "after": uuid7()}]
)
def test_a_page_that_cannot_be_is_refused(asked):
    with pytest.raises(ValueError, match=r"size is|Both before= and after="):
        page(Job.objects.all(), Search(), **asked)


@pytest.mark.parametrize("cursor", [UUID(int=0), UUID(int=2**128 - 1)])
def test_a_cursor_may_be_any_id(job_factory, cursor):
    job_factory()

    for text in ("", "status:queued", "error:x"):
        page(Job.objects.all(), parse(text), before=cursor)
        page(Job.objects.all(), parse(text), after=cursor)


def test_jobs_are_counted_in_each_state(job_factory):
    for status in (QUEUED, QUEUED, SCHEDULED, DEFERRED, STARTED):
        job_factory(status=status, queue="mail")
    job_factory(queue="other")
    tally({("mail", FINISHED): 12_000, ("other", FAILED): 7})

    every = counts(Job.objects.all(), parse("status:failed"))
    of_mail = counts(Job.objects.all(), parse("queue:mail"))

    assert every == {
        QUEUED: 3,
        SCHEDULED: 1,
        DEFERRED: 1,
        STARTED: 1,
        FINISHED: 12_000,
        FAILED: 7,
        CANCELED: 0,
    }
    assert of_mail == every | {QUEUED: 2, FAILED: 0}
    assert list(every) == Status.values


def test_jobs_are_counted_as_far_as_an_index_helps(job_factory, few_rows, monkeypatch):
    monkeypatch.setattr(counting, "MOST_COUNTED", 2)
    monkeypatch.setattr(pages, "MOST_COUNTED", 2)
    for status in (QUEUED, QUEUED, QUEUED, FAILED, *[FINISHED] * 5):
        job_factory(status=status, task="a.b", subject="file:1")
    for _ in range(5):
        job_factory(status=FINISHED)

    of_task = counts(Job.objects.all(), parse("task:a.b"))
    of_subject = counts(Job.objects.all(), parse("subject:file:1"))

    unfinished = {QUEUED: 2, SCHEDULED: 0, DEFERRED: 0, STARTED: 0}
    assert of_task == {**unfinished, FINISHED: 2, FAILED: 1, CANCELED: 0}
    assert of_subject == {**unfinished, FAILED: 1, CANCELED: 0}
    assert counts(Job.objects.all(), parse("since:1h"))[FINISHED] == 2


@pytest.mark.parametrize("text", ["error:x", "args.a:1", "-queue:mail", "tag:a", "fail_until"])
def test_nothing_is_counted_where_no_index_helps(text, django_assert_num_queries):
    with django_assert_num_queries(0):
        assert counts(Job.objects.all(), parse(text)) is None


EVERY_KIND = [
    *("", "status:failed", "-status:queued", "queue:mail", "queue:mail status:failed", "task:add"),
    *("subject:file:1", "file:1", "owner:alice", "since:1h", "id:deadbeef"),
    *("error:x", "tag:x", "args.left:1", "args.0:1", "attempt:>1", "engine:rq", "worker:w1", "task:x.*"),
    *("status:failed task:add", "queue:mail error:x", "-queue:mail owner:alice status:failed"),
]


@pytest.mark.parametrize("rows", [1, 60])
@pytest.mark.parametrize("text", EVERY_KIND)
def test_a_page_costs_the_same_few_queries_for_few_rows_and_for_many(job_factory, text, rows):
    get_user_model().objects.create_user("alice")
    for _ in range(rows):
        job_factory(subject="file:1", queue="mail", status=FAILED)

    with CaptureQueriesContext(connection) as queries:
        page(Job.objects.all(), parse(text))
        counts(Job.objects.all(), parse(text))

    assert len(queries) <= 14


def test_no_page_reads_the_table_from_end_to_end(db):
    get_user_model().objects.create_user("alice")
    Job.objects.bulk_create(
        Job(
            task=f"app.task{number % 7}",
            queue=f"q{number % 3}",
            status=FINISHED if number % 10 else FAILED,
            subject=f"file:{number % 50}",
        )
        for number in range(2000)
    )
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE django_jobs_job")

    with CaptureQueriesContext(connection) as queries:
        for text in EVERY_KIND:
            page(Job.objects.all(), parse(text))

    for query in queries.captured_queries:
        plan = plan_of(query["sql"])
        assert not any(map(reads_all, plan)), "\n".join([query["sql"], *plan])


def test_a_task_that_ran_often_and_not_of_late_is_found_by_its_own_index(db):
    """By the primary key it is not far on average, and all that came since is read."""
    for task in ("stopped", "goes.on"):
        Job.objects.bulk_create(Job(task=task, queue="mail", status=FINISHED) for _ in range(2000))
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE django_jobs_job")

    for text in ("task:stopped", "task:stopped error:x", "task:stopped status:finished"):
        with CaptureQueriesContext(connection) as queries:
            page(Job.objects.all(), parse(text))

        of_ids = [query["sql"] for query in queries if "LIMIT 51" in query["sql"]]
        assert len(of_ids) == 1, text
        assert "django_jobs_task" in "".join(plan_of(of_ids[0])), text


def plan_of(statement):
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute(f"EXPLAIN QUERY PLAN {statement}".replace("%", "%%"))
        else:
            # Few rows are as fast to read without an index; what cannot be done with one still is seen.
            cursor.execute("SET LOCAL enable_seqscan = off")
            cursor.execute(f"EXPLAIN {statement}")
        return [str(row[-1]) for row in cursor.fetchall()]


def reads_all(line):
    """True for a step that reads a table of jobs, or all that an index selects, before the first row is told.

    The row beside which the ends of the windows are selected is the first of the primary key.
    """
    if connection.vendor == "postgresql":
        return "Seq Scan on django_jobs_job" in line
    return "SCAN django_jobs_job" in line and "USING COVERING INDEX sqlite_autoindex" not in line


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.text(max_size=60),
    st.sampled_from(["", "args.x:", "args.left:", "tag:", "error:", "task:", "owner:", "args."]),
)
@example("1" * 900, "args.x:")
@example("[" * 900, "args.x:")
@example("9999:1", "args.")
@example("a.b.c.d.e.f.g.h.i.j:1", "args.")
@example("'; DROP TABLE django_jobs_job; --", "args.")
@example("%s%(x)s{}", "error:")
@example('a"b:1', "args.")
@example("$.x:1", "args.")
@example("1:1", "args.x.")
def test_whatever_is_typed_is_searched_for_or_refused(job_factory, text, qualifier):
    job_factory(kwargs={"x": [1, {"a": None}]}, args=[1], tags=["a"])
    try:
        search = parse(qualifier + text)
    except SearchError:
        return

    page(Job.objects.all(), search)
    counts(Job.objects.all(), search)
    list(search.apply(Job.objects.all()))
