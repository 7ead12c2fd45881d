"""The page of a job in the admin, and requeuing it with other arguments."""

import ast
import json
import re
from datetime import timedelta
from html import unescape
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from django_jobs import control
from django_jobs.admin.code import call_code
from django_jobs.models import Attempt, Job
from django_jobs.redaction import MASK
from django_jobs.states import CANCELED, FAILED, FINISHED, QUEUED, SCHEDULED, STARTED
from tests.conftest import Stopwatch, fresh, make_worker

JOB = "admin:django_jobs_job_change"
HEAD = "admin:django_jobs_job_head"
PAST = "admin:django_jobs_job_past"
EDIT = "admin:django_jobs_job_edit"
ACT = "admin:django_jobs_job_act"
HOSTILE = """<script>alert(1)</script>"'&{{ x }}{% y %}"""
TRACEBACK = """Traceback (most recent call last):
  File "/srv/shop/tasks.py", line 12, in bill
    client.get(url)
  File "/usr/lib/python3/site-packages/http/client.py", line 90, in get
    raise Timeout(url)
http.Timeout: https://bank.example
"""
SECRET = "hunter2"
EVERYTHING = [
    *("view_job", "view_job_arguments", "requeue_job", "edit_job_arguments", "cancel_job", "stop_job"),
    *("run_job", "fail_job", "delete_job", "view_attempt", "view_errorgroup"),
]

pytestmark = pytest.mark.usefixtures("valkey")


@pytest.fixture
def only_own(settings):
    settings.DJANGO_JOBS = {**settings.DJANGO_JOBS, "VISIBLE_JOBS": "tests.conftest.own_jobs"}


def shown(client: Client, job: Job, name: str = JOB) -> str:
    return client.get(reverse(name, args=[job.pk])).text


def ended(job: Job, number: int = 1, **values) -> Attempt:
    usual = {"outcome": Attempt.Outcome.FAILED, "started_at": job.created_at, "worker_name": "w1"}
    return job.attempts.create(number=number, claim_id=job.pk, **{**usual, **values})


def offered(page: str) -> set[str]:
    return set(re.findall(r'<button [^>]*name="verb" value="(\w+)"', page))


def edit(client: Client, job: Job, **fields):
    data = {f"call-{name}": value for name, value in fields.items() if name not in ("confirmed", "back")}
    data |= {name: value for name, value in fields.items() if name in ("confirmed", "back")}
    return client.post(reverse(EDIT, args=[job.pk]), data, follow=True)


def test_page_tells_what_happened_to_a_failed_job(client_who_may, job_factory):
    client = client_who_may(*EVERYTHING)
    stages = {
        "chunking": {"status": "completed", "progress": 100},
        "x": {"status": "processing", "progress": 50},
    }
    job = job_factory(
        status=FAILED,
        args=[1],
        stages=stages,
        progress=75,
        error_type="http.Timeout",
        error_message="https://bank.example",
        traceback=TRACEBACK,
        attempt=2,
        max_attempts=2,
        finished_at=timezone.now(),
    )
    ended(job, 1)
    ended(job, 2, traceback=TRACEBACK, log="asked the bank", error_type="http.Timeout", error_message="…")

    page = shown(client, job)

    assert "tests.tasks.add(1)" in page
    assert "http.Timeout: https://bank.example" in page
    assert '<svg class="jobs-timeline"' in page
    assert "2 of 2" in page
    assert page.index("Attempt 2") < page.index("Attempt 1")
    assert "asked the bank" in page
    assert "chunking" in page
    assert "75 %" in page
    assert page.count("raise Timeout(url)") == 1


def test_the_frames_of_the_project_are_marked(client_who_may, job_factory):
    client = client_who_may(*EVERYTHING)
    job = job_factory(status=FAILED, traceback=TRACEBACK, error_type="x")

    [own] = re.findall(r'<span class="jobs-own">(.*?)</span>', shown(client, job), re.DOTALL)

    assert unescape(own) == '  File "/srv/shop/tasks.py", line 12, in bill\n    client.get(url)'


def test_page_costs_the_same_number_of_queries_whatever_there_is(
    client_who_may, job_factory, django_assert_max_num_queries
):
    client = client_who_may(*EVERYTHING)
    origin = job_factory(status=FINISHED, subject="file:42")
    job = job_factory(status=FAILED, subject="file:42", requeued_from=origin, fingerprint="f" * 32)
    for number in range(1, 31):
        ended(job, number)
        job_factory(parent=job)
        job.events.create(kind="requeued", attempt=number)
        job_factory(subject="file:42", requeued_from=job)

    for name in (JOB, HEAD, PAST):
        with django_assert_max_num_queries(20):
            shown(client, job, name)


@pytest.mark.parametrize("name", [JOB, HEAD, PAST, EDIT])
def test_pages_are_closed_to_staff_without_permission(client_who_may, job_factory, name):
    client = client_who_may(*(each for each in EVERYTHING if each != "view_job"))

    assert client.get(reverse(name, args=[job_factory().pk])).status_code == 403


@pytest.mark.parametrize("name", [JOB, HEAD, PAST, EDIT, "admin:django_jobs_job_history"])
def test_the_jobs_of_others_are_not_there_by_their_ids(client_who_may, job_factory, only_own, name):
    client = client_who_may(*EVERYTHING)
    own = job_factory(status=FAILED, owner=User.objects.get(username="op"))
    others = job_factory(status=FAILED, owner=User.objects.create_user("ada"), subject="confidential")

    assert client.get(reverse(name, args=[own.pk])).status_code == 200
    answer = client.get(reverse(name, args=[others.pk]))
    assert answer.status_code in (302, 404)
    assert "confidential" not in answer.text


@pytest.mark.parametrize("job_id", ["x", uuid4()])
def test_a_job_that_is_not_there_is_not_found(client_who_may, job_id):
    client = client_who_may("view_job")

    assert client.get(reverse(JOB, args=[job_id])).status_code == 404


def test_related_jobs_are_told_but_for_those_of_others(client_who_may, job_factory, only_own):
    client = client_who_may(*EVERYTHING)
    op, ada = User.objects.get(username="op"), User.objects.create_user("ada")
    origin = job_factory(status=FINISHED, owner=op)
    job = job_factory(status=FINISHED, owner=op, requeued_from=origin, subject="file:42")
    again, parent = job_factory(owner=op, requeued_from=job), job_factory(owner=op)
    Job.objects.filter(pk=job.pk).update(parent=parent)
    child, not_own = job_factory(owner=op, parent=job), job_factory(owner=ada, parent=job)
    same, other = job_factory(owner=op, subject="file:42"), job_factory(owner=ada, subject="file:42")

    page = shown(client, job)

    for related in (origin, again, same, parent, child):
        assert reverse(JOB, args=[related.pk]) in page
    for unseen in (other, not_own):
        assert str(unseen.pk) not in page


def test_the_page_of_a_job_whose_parent_is_deleted_goes_on(client_who_may, job_factory):
    parent = job_factory()
    child = job_factory(parent=parent)

    parent.delete()

    assert reverse(JOB, args=[parent.pk]) not in shown(client_who_may(*EVERYTHING), fresh(child))


def test_what_a_running_job_has_logged_is_shown_masked(client_who_may, job_factory):
    client = client_who_may("view_job", "view_job_arguments")
    job = job_factory(status=STARTED, live_log="read page 1\npassword=hunter2\n<b>")

    for page in (shown(client, job), shown(client, job, PAST)):
        assert "Log so far" in page
        assert "read page 1" in page
        assert "&lt;b&gt;" in page
        assert SECRET not in page


def test_what_a_running_job_has_logged_is_hidden_from_who_may_not_see_values(client_who_may, job_factory):
    client = client_who_may("view_job")
    job = job_factory(status=STARTED, live_log="read page 1")

    for page in (shown(client, job), shown(client, job, PAST)):
        assert "read page 1" not in page


def test_a_failure_leads_to_those_of_its_kind(client_who_may, job_factory):
    client = client_who_may("view_job")
    job = job_factory(status=FAILED, fingerprint="f" * 32)

    assert f"?q=fingerprint%3A{'f' * 32}" in shown(client, job)


@pytest.mark.parametrize(
    ("seconds", "is_delivered", "told"),
    [
        (1, False, "It is being delivered."),
        (60, False, "Not delivered to the engine, though it has waited for a while."),
        (60, True, "No live worker listens on its queue."),
    ],
)
def test_a_job_that_waits_says_what_for(client_who_may, job_factory, seconds, is_delivered, told):
    since = timezone.now() - timedelta(seconds=seconds)
    job = job_factory(queued_at=since, delivered_at=since if is_delivered else None)

    assert told in shown(client_who_may("view_job"), job)


def test_a_job_that_waits_says_whether_anybody_will_take_it(client_who_may, job_factory):
    client = client_who_may("view_job")
    job = job_factory(delivered_at=timezone.now())

    make_worker(queues=[job.queue])
    assert "Waits for a worker." in shown(client, job, HEAD)
    control.pause(job.queue)
    assert "Its queue is paused" in shown(client, job, HEAD)


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (QUEUED, "It has not ended yet."),
        (FAILED, "It has none: it did not finish."),
        (FINISHED, "It returned nothing, or nothing is kept."),
    ],
)
def test_why_there_is_no_result_is_told(client_who_may, job_factory, status, told):
    page = shown(client_who_may("view_job", "view_job_arguments"), job_factory(status=status))

    assert told in page


def test_an_error_without_a_message_is_its_type_alone(client_who_may, job_factory):
    page = shown(client_who_may("view_job"), job_factory(status=FAILED, error_type="WorkerLost"))

    assert ">WorkerLost<" in page


def test_events_tell_who_did_what(client_who_may, job_factory):
    client = client_who_may(*EVERYTHING)
    job = job_factory()
    job.events.create(kind="canceled", attempt=1, by=User.objects.create_user("ada"), message="by mistake")

    page = shown(client, job)

    assert "ada" in page
    assert "by mistake" in page


@pytest.mark.parametrize(
    ("values", "verbs"),
    [
        ({"status": QUEUED}, {"cancel", "mark_failed", "delete"}),
        ({"status": SCHEDULED}, {"cancel", "run_now", "mark_failed", "delete"}),
        ({"status": STARTED}, {"stop", "mark_failed", "delete"}),
        ({"status": FINISHED}, {"requeue", "delete"}),
        ({"status": FAILED}, {"requeue", "delete"}),
        ({"status": CANCELED}, {"requeue", "delete"}),
        ({"status": FAILED, "observed_id": "abc"}, {"delete"}),
    ],
)
def test_only_what_the_state_allows_is_offered(client_who_may, job_factory, values, verbs):
    client = client_who_may(*EVERYTHING)

    assert offered(shown(client, job_factory(**values))) == verbs


def test_a_button_of_the_page_acts_and_leads_back(client_who_may, job_factory):
    client = client_who_may(*EVERYTHING)
    job = job_factory(status=FAILED)

    data = {"verb": "requeue", "job": job.pk, "from": "page"}
    page = client.post(reverse(ACT), data, follow=True)

    assert fresh(job).status == QUEUED
    assert page.redirect_chain == [(reverse(JOB, args=[job.pk]), 302)]
    assert "1 job requeued." in page.text


def test_a_finished_job_leads_to_its_copy(client_who_may, job_factory):
    client = client_who_may(*EVERYTHING)
    job = job_factory(status=FINISHED)

    page = client.post(reverse(ACT), {"verb": "requeue", "job": job.pk, "from": "page"}, follow=True)

    [copy] = Job.objects.filter(requeued_from=job)
    assert page.redirect_chain == [(reverse(JOB, args=[copy.pk]), 302)]


def test_a_refusal_says_why(client_who_may, job_factory):
    client = client_who_may(*EVERYTHING)
    job = job_factory(status=STARTED)

    page = client.post(reverse(ACT), {"verb": "requeue", "job": job.pk, "from": "page"}, follow=True)

    assert f"Job {job.pk} is started; only jobs that have ended can be requeued." in page.text


def test_a_deleted_job_leads_to_the_list(client_who_may, job_factory):
    client = client_who_may(*EVERYTHING)
    job = job_factory(status=FINISHED)

    data = {"verb": "delete", "job": job.pk, "from": "page", "confirmed": "yes"}
    page = client.post(reverse(ACT), data, follow=True)

    assert page.redirect_chain == [(reverse("admin:django_jobs_job_changelist"), 302)]
    assert "1 job deleted." in page.text


def test_nothing_is_changed_by_posting_to_the_page_itself(client_who_may, job_factory):
    client = client_who_may(*EVERYTHING, "add_job", "change_job")
    job = job_factory(args=[1])

    assert client.post(reverse(JOB, args=[job.pk]), {"args": "[2]"}).status_code == 405
    assert fresh(job).args == [1]
    assert client.get(reverse("admin:django_jobs_job_add")).status_code == 403
    assert client.post(reverse("admin:django_jobs_job_delete", args=[job.pk])).status_code == 403


def test_values_are_shown_to_those_only_who_may_see_them(client_who_may, job_factory):
    client = client_who_may(*(each for each in EVERYTHING if each != "view_job_arguments"))
    job = job_factory(
        status=FAILED,
        args=["confidential"],
        kwargs={"right": "confidential"},
        result="confidential",
        result_error="confidential",
        meta={"x": "confidential"},
        traceback="confidential",
        error_type="ValueError",
    )
    ended(job, log="confidential", traceback="confidential")

    for name in (JOB, HEAD, PAST):
        assert "confidential" not in shown(client, job, name)
    assert client.get(reverse(EDIT, args=[job.pk])).status_code == 403


def test_hostile_values_are_escaped_on_the_page(client_who_may, job_factory):
    client = client_who_may(*EVERYTHING)
    stages = {HOSTILE: {"status": "processing", "progress": 50}}
    job = job_factory(
        task=f"a.{HOSTILE}",
        args=[HOSTILE],
        kwargs={HOSTILE: HOSTILE},
        result={HOSTILE: HOSTILE},
        meta={HOSTILE: HOSTILE},
        tags=[HOSTILE],
        queue=HOSTILE,
        subject=HOSTILE,
        description=HOSTILE,
        unique_key=HOSTILE,
        progress_message=HOSTILE,
        stages=stages,
        error_type=HOSTILE,
        error_message=HOSTILE,
        traceback=f'  File "{HOSTILE}", line 1, in {HOSTILE}\n    {HOSTILE}',
        fingerprint="f" * 32,
        status=FAILED,
        owner=User.objects.create_user(HOSTILE),
    )
    job.events.create(kind="requeued", attempt=1, message=HOSTILE)
    told = dict.fromkeys(("worker_name", "log", "traceback", "error_type", "error_message"), HOSTILE)
    ended(job, **told)

    pages = [shown(client, job, name) for name in (JOB, HEAD, PAST, EDIT)]
    pages.append(edit(client, job, args=f'["{uuid4()}<script>alert(1)</script>"]', kwargs="{}").text)

    for page in pages:
        assert "<script>alert" not in page
        assert "&lt;script&gt;alert" in page
        assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=", page)


def test_long_values_are_folded(client_who_may, job_factory):
    client = client_who_may(*EVERYTHING)
    job = job_factory(args=["x" * 5000])

    assert re.search(r"<summary>5,002 characters</summary>", shown(client, job))


def test_a_result_of_megabytes_is_shown_in_part_and_the_page_says_how_much_there_is(
    client_who_may, job_factory
):
    client = client_who_may(*EVERYTHING)
    job = job_factory(status=FINISHED, result=["x" * 1000] * 5000)

    page = shown(client, job)

    assert len(page) < 500_000
    assert "These are the first 100,000 of 5,030,002 characters." in page


def test_the_code_calls_the_task_as_it_was_called(client_who_may, job_factory):
    client = client_who_may(*EVERYTHING)
    job = job_factory(args=[1], kwargs={"right": 2}, subject="file:42")
    elsewhere = job_factory(args=[1], queue="vectorization")
    undeclared = job_factory(task="tests.tasks.undeclared", args=[1])

    page, moved, other = (unescape(shown(client, each)) for each in (job, elsewhere, undeclared))

    assert "from tests.tasks import add\n\nadd.using(subject='file:42').enqueue(1, right=2)" in page
    assert "add.using(queue='vectorization').enqueue(1)" in moved
    assert "from django_jobs import task\nfrom tests.tasks import undeclared\n\ntask(undeclared)." in other


@pytest.mark.parametrize(
    "name", ["x=1); __import__('os').system('id'); f(y", "x\n", "a b", "", "class", HOSTILE, "名"]
)
def test_the_code_is_one_call_whatever_the_names_of_its_arguments(name):
    code = call_code("tests.tasks.add", [1], {name: 2, "right": 3}, {})

    call = ast.parse(code).body[-1].value
    named = [keyword.arg or ast.literal_eval(keyword.value) for keyword in call.keywords]
    assert len(ast.parse(code).body) == 2
    assert isinstance(call, ast.Call)
    assert named in ([{name: 2}, "right"], [name, "right"])


def test_the_code_masks_what_the_rest_of_the_page_masks(client_who_may, job_factory):
    client = client_who_may(*EVERYTHING)
    job = job_factory(args=[1], unique_key="password=hunter2", meta={"password": "hunter2"})

    assert "hunter2" not in shown(client, job)


def test_regions_are_what_the_page_holds_and_are_not_sent_twice(client_who_may, job_factory):
    client = client_who_may(*EVERYTHING)
    job = job_factory(status=FINISHED, finished_at=timezone.now())
    page = shown(client, job)

    for name in (HEAD, PAST):
        region = client.get(reverse(name, args=[job.pk]))
        again = client.get(reverse(name, args=[job.pk]), headers={"If-None-Match": region["ETag"]})
        assert region.text in page
        assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("status", [FINISHED, FAILED, CANCELED, STARTED, QUEUED])
def test_regions_of_a_finished_job_change_no_more_and_others_may(client_who_may, job_factory, status):
    """A failed or canceled one may be requeued."""
    client = client_who_may(*EVERYTHING)
    job = job_factory(status=status)

    for name in (HEAD, PAST):
        assert ("data-jobs-final" in shown(client, job, name)) is (status == FINISHED)


def test_upcoming_attempts_are_drawn(client_who_may, job_factory):
    client = client_who_may(*EVERYTHING)
    due = timezone.now() + timedelta(hours=1)
    job = job_factory(status=SCHEDULED, attempt=2, max_attempts=4, retry_intervals=[60], scheduled_for=due)

    page = shown(client, job)

    assert page.count('class="jobs-segment jobs-segment-upcoming"') == 3
    assert "Attempt 2 is due at" in page


def test_edit_and_requeue_shows_a_field_for_each_argument(client_who_may, job_factory):
    client = client_who_may(*EVERYTHING)
    job = job_factory(status=FAILED, args=[1])

    page = shown(client, job, EDIT)

    assert 'name="call-left" value="1"' in page
    assert 'name="call-right"' in page


def test_the_difference_is_shown_before_a_new_job_is_made(client_who_may, job_factory):
    client = client_who_may(*EVERYTHING)
    job = job_factory(status=FAILED, args=[1], kwargs={"right": 2})

    page = edit(client, job, left="5", right="2").text

    assert "<pre><del>-1</del>\n<ins>+5</ins></pre>" in page
    assert "<code>right</code>" not in page
    assert not Job.objects.filter(requeued_from=job).exists()


def test_the_difference_of_long_arguments_takes_no_long_time(client_who_may, job_factory):
    client = client_who_may(*EVERYTHING)
    lines = [f"line {number % 101}" for number in range(4_000)]
    job = job_factory(task="gone.task", status=FAILED, args=[lines])
    changed = {"args": json.dumps([[*lines[:2_000], "other", *lines[2_001:]]]), "kwargs": "{}"}

    with Stopwatch() as watch:
        page = edit(client, job, **changed).text
        other = edit(client, job, args=json.dumps([lines[::-1]]), kwargs="{}").text

    assert f"<del>-  &quot;{lines[2_000]}&quot;,</del>" in page
    assert "<ins>+  &quot;other&quot;,</ins>" in page
    assert page.count("<span>") < 10
    assert "Other than before; it is too long to be compared." in other
    assert watch.seconds < 5


def test_a_new_job_runs_with_the_other_arguments(client_who_may, job_factory):
    client = client_who_may(*EVERYTHING)
    job = job_factory(status=FAILED, args=[1], kwargs={"right": 2})

    page = edit(client, job, left="5", right="2", confirmed="yes")

    again = Job.objects.get(requeued_from=job)
    assert (again.args, again.kwargs, again.status) == ([5], {"right": 2}, QUEUED)
    assert (fresh(job).args, fresh(job).status) == ([1], FAILED)
    assert page.redirect_chain == [(reverse(JOB, args=[again.pk]), 302)]
    assert job.events.get().by.username == "op"


def test_going_back_keeps_what_was_written(client_who_may, job_factory):
    client = client_who_may(*EVERYTHING)
    job = job_factory(status=FAILED, args=[1])

    page = edit(client, job, left="5", right="7", back="yes").text

    assert 'name="call-left" value="5"' in page
    assert "See what changes" in page


def test_a_masked_argument_keeps_its_value_unless_it_is_changed(client_who_may, job_factory):
    client = client_who_may(*EVERYTHING)
    job = job_factory(status=FAILED, task="tests.tasks.log_in", args=["ada", SECRET])

    form = shown(client, job, EDIT)
    asked = edit(client, job, user="eve", password=MASK).text
    edit(client, job, user="eve", password=MASK, confirmed="yes")

    assert SECRET not in form
    assert SECRET not in asked
    assert Job.objects.get(requeued_from=job).args == ["eve", SECRET]


def test_a_masked_argument_can_be_changed_and_stays_masked(client_who_may, job_factory):
    client = client_who_may(*EVERYTHING)
    job = job_factory(status=FAILED, task="tests.tasks.log_in", args=["ada", SECRET])

    asked = edit(client, job, user="ada", password="other").text
    edit(client, job, user="ada", password="other", confirmed="yes")

    assert "it is masked" in asked
    assert Job.objects.get(requeued_from=job).args == ["ada", "other"]


def test_a_mask_is_never_written_into_a_job(client_who_may, job_factory):
    client = client_who_may(*EVERYTHING)
    told = {"name": "ada", "password": SECRET}
    job = job_factory(status=FAILED, task="tests.tasks.first", args=[told])

    refused = edit(client, job, value=f'{{"name": "eve", "password": "{MASK}"}}', confirmed="yes").text
    edit(client, job, value='{"name": "eve", "password": "other"}', confirmed="yes")

    assert "instead of" in refused
    assert Job.objects.get(requeued_from=job).args == [{"name": "eve", "password": "other"}]


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ('{"a": 1,\n"b": }', "line 2, column 6"),
        ("[1, 2", "line 1"),
        ("nothing", "quotes"),
        ("[NaN]", "not JSON"),
    ],
)
def test_bad_json_is_told_with_its_line_and_nothing_is_lost(client_who_may, job_factory, written, told):
    client = client_who_may(*EVERYTHING)
    job = job_factory(status=FAILED, task="tests.tasks.first", args=[[1]])

    page = edit(client, job, value=written, confirmed="yes").text

    assert told in unescape(page)
    assert written in unescape(page)
    assert not Job.objects.filter(requeued_from=job).exists()


def test_arguments_of_a_task_that_is_not_known_are_edited_as_json(client_who_may, job_factory):
    client = client_who_may(*EVERYTHING)
    job = job_factory(status=FAILED, task="tests.tasks.undeclared", args=[1, 2], kwargs={"x": 3})

    page = shown(client, job, EDIT)
    edit(client, job, args="[7]", kwargs="{}", confirmed="yes")

    assert 'name="call-args"' in page
    assert Job.objects.get(requeued_from=job).args == [7]


def test_what_the_task_does_not_take_is_told_in_the_form(client_who_may, job_factory):
    client = client_who_may(*EVERYTHING)
    job = job_factory(status=FAILED, task="tests.tasks.gone", args=[1])

    page = edit(client, job, args="[7]", kwargs="{}", confirmed="yes").text

    assert "tests.tasks.gone" in page
    assert 'class="errorlist' in page
    assert not Job.objects.filter(requeued_from=job).exists()


@pytest.mark.parametrize("lacking", ["edit_job_arguments", "requeue_job", "view_job_arguments"])
def test_edit_and_requeue_takes_each_of_its_permissions(client_who_may, job_factory, lacking):
    client = client_who_may(*(each for each in EVERYTHING if each != lacking))
    job = job_factory(status=FAILED, args=[1])

    assert reverse(EDIT, args=[job.pk]) not in shown(client, job)
    assert edit(client, job, left="5", confirmed="yes").status_code == 403
    assert not Job.objects.filter(requeued_from=job).exists()


def test_edit_and_requeue_is_off_where_it_is_read_only(client_who_may, job_factory, settings):
    settings.DJANGO_JOBS = {**settings.DJANGO_JOBS, "READ_ONLY": True}
    client = client_who_may(*EVERYTHING)
    job = job_factory(status=FAILED, args=[1])

    assert reverse(EDIT, args=[job.pk]) not in shown(client, job)
    assert edit(client, job, left="5", confirmed="yes").status_code == 403


@pytest.mark.parametrize("values", [{"status": STARTED}, {"status": FAILED, "observed_id": "abc"}])
def test_jobs_that_cannot_be_requeued_cannot_be_edited(client_who_may, job_factory, values):
    client = client_who_may(*EVERYTHING)
    job = job_factory(**values)

    page = client.get(reverse(EDIT, args=[job.pk]), follow=True)

    assert page.redirect_chain == [(reverse(JOB, args=[job.pk]), 302)]
