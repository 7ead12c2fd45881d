"""The pages of the groups of errors."""

from datetime import timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from django_jobs import errors
from django_jobs.models import Attempt, ErrorCount, ErrorGroup, Operation
from django_jobs.states import FAILED
from tests.conftest import fresh

pytestmark = pytest.mark.usefixtures("valkey")

ERRORS = "admin:django_jobs_errorgroup_changelist"
ERROR = "admin:django_jobs_errorgroup_change"
ACTIONS = ["resolve", "ignore", "reopen"]
VERBS = [*ACTIONS, "requeue"]


def group(number=1, **values):
    now = timezone.now()
    values = {
        "fingerprint": f"{number:032x}",
        "error_type": "ValueError",
        "frame": "shop/tasks.py in bill",
        "message": "no such file",
        "first_seen": now - timedelta(days=2),
        "last_seen": now - timedelta(minutes=number),
        "count": 3,
        "tasks": {"shop.tasks.bill": 3},
        "workers": {"w1": 3},
        **values,
    }
    return ErrorGroup.objects.create(**values)


def failed_as(job_factory, group, **values):
    job = job_factory(status=FAILED, fingerprint=group.pk, error_type=group.error_type, **values)
    job.attempts.create(
        number=1,
        claim_id=job.pk,
        worker_name="w1",
        started_at=job.created_at,
        outcome=Attempt.Outcome.FAILED,
        error_type=group.error_type,
        traceback=(
            "Traceback (most recent call last):\n"
            '  File "/srv/shop/tasks.py", line 5, in bill\n    raise ValueError(password="hunter2")\n'
            "ValueError: <b>no such file</b>"
        ),
    )
    return job


def act(client, verb, group, **data):
    return client.post(reverse(f"admin:django_jobs_error_{verb}", args=[group.pk]), data, follow=True)


def decided(state):
    return {
        "state": state,
        "ignored_until": timezone.now() + timedelta(days=1) if state == "ignored" else None,
    }


def test_groups_are_listed_by_their_state(client_who_may):
    client = client_who_may("view_errorgroup")
    group(1, error_type="OpenError")
    group(2, error_type="ResolvedError", state="resolved")
    group(3, error_type="IgnoredError", state="ignored")
    group(4, error_type="LateError", state="ignored", ignored_until=timezone.now() - timedelta(hours=1))

    pages = {
        state: client.get(reverse(ERRORS), {"state": state}).text for state in ("open", "resolved", "ignored")
    }

    for state, names in {
        "open": {"OpenError", "LateError"},
        "resolved": {"ResolvedError"},
        "ignored": {"IgnoredError"},
    }.items():
        shown = {
            name
            for name in ("OpenError", "LateError", "ResolvedError", "IgnoredError")
            if name in pages[state]
        }
        assert shown == names


def test_a_group_tells_how_often_it_came_up_and_how_many_jobs_wait_for_a_decision(
    client_who_may, job_factory
):
    client = client_who_may("view_errorgroup", "view_job")
    mine = group(count=12_345)
    this_hour = timezone.now().replace(minute=0, second=0, microsecond=0)
    ErrorCount.objects.create(group=mine, start=this_hour, count=7)
    for _ in range(2):
        failed_as(job_factory, mine)

    page = client.get(reverse(ERRORS)).text

    assert "12,345" in page
    assert "highest 7" in page
    assert f"status%3Afailed+fingerprint%3A{mine.pk}" in page
    assert ">2</a>" in page
    assert "bill" in page


def test_the_list_names_tasks_without_their_module_and_workers_in_full(client_who_may):
    client = client_who_may("view_errorgroup", "view_worker")
    counts = {f"host.example.{pid}.a1b2c3": 5 - pid for pid in range(5)}
    group(tasks={"shop.tasks.bill": 3}, workers=counts)

    [row] = client.get(reverse(ERRORS)).context["rows"]

    assert row.tasks == "bill"
    assert row.workers == ("host.example.0.a1b2c3, host.example.1.a1b2c3, host.example.2.a1b2c3 and 2 more")


def test_older_groups_are_on_further_pages(client_who_may):
    client = client_who_may("view_errorgroup")
    seen = timezone.now()
    for number in range(1, 41):
        group(number, error_type=f"Error{number:02}x", last_seen=seen)  # All at once.

    first = client.get(reverse(ERRORS))
    second = client.get(first.context["older_url"])

    shown = [row.error_type for page in (first, second) for row in page.context["rows"]]
    assert sorted(shown) == [f"Error{number:02}x" for number in range(1, 41)]
    assert second.context["older_url"] == ""


def test_a_page_that_is_no_place_is_the_first(client_who_may):
    client = client_who_may("view_errorgroup")
    group()

    for before in (
        "x",
        "2026-99-99T00:00 f",
        "2026-01-01T00:00 f",
        "0001-01-01T00:00+14:00 f",
        "2026-01-01T00:00Z \0",
    ):
        assert len(client.get(reverse(ERRORS), {"before": before, "state": "<b>"}).context["rows"]) == 1


def test_what_errors_say_is_escaped_and_masked(client_who_may):
    client = client_who_may("view_errorgroup")
    mine = group(
        error_type="<b>Type",
        frame="<b>frame",
        message="<b>password=hunter2",
        tasks={"<b>task": 1},
        workers={"<b>w": 1},
    )

    for page in (client.get(reverse(ERRORS)).text, client.get(reverse(ERROR, args=[mine.pk])).text):
        assert "<b>" not in page
        assert "&lt;b&gt;Type" in page
        assert "hunter2" not in page


def test_a_group_shows_its_newest_jobs_and_a_traceback_with_the_projects_frames_marked(
    client_who_may, job_factory
):
    client = client_who_may("view_errorgroup", "view_job", "view_job_arguments")
    mine = group()
    job = failed_as(job_factory, mine, args=[42])

    page = client.get(reverse(ERROR, args=[mine.pk])).text

    assert "add(42)" in page
    assert reverse("admin:django_jobs_job_change", args=[job.pk]) in page
    assert '<span class="jobs-own">  File &quot;/srv/shop/tasks.py&quot;, line 5, in bill' in page
    assert "hunter2" not in page
    assert "&lt;b&gt;no such file" in page


def test_the_traceback_is_that_of_the_job_that_failed_last_whenever_it_was_enqueued(
    client_who_may, job_factory
):
    client = client_who_may("view_errorgroup", "view_job", "view_job_arguments")
    mine = group()
    failed_last, *_ = [failed_as(job_factory, mine) for _ in range(2)]
    ErrorGroup.objects.update(sample=failed_last.pk)

    page = client.get(reverse(ERROR, args=[mine.pk]))

    assert page.context["sample"].job_id == failed_last.pk


def test_tracebacks_and_arguments_are_for_those_who_may_see_arguments(client_who_may, job_factory):
    client = client_who_may("view_errorgroup", "view_job")
    mine = group()
    failed_as(job_factory, mine, args=["letters.pdf"])

    page = client.get(reverse(ERROR, args=[mine.pk])).text

    assert "/srv/shop/tasks.py" not in page
    assert "letters.pdf" not in page
    assert "takes the permission to see arguments" in page


def test_jobs_are_for_those_who_may_see_jobs(client_who_may, job_factory):
    client = client_who_may("view_errorgroup", "view_job_arguments")
    mine = group()
    job = failed_as(job_factory, mine)

    page = client.get(reverse(ERROR, args=[mine.pk])).text

    assert str(job.pk) not in page
    assert "/srv/shop/tasks.py" not in page


def test_resolve_takes_a_group_off_the_list_and_leaves_a_trace(client_who_may):
    client = client_who_may("view_errorgroup", "resolve_errorgroup")
    mine = group()

    page = act(client, "resolve", mine)

    assert fresh(mine).state == "resolved"
    assert fresh(mine).changed_by.username == "op"
    assert "Resolved." in page.text
    assert LogEntry.objects.get().object_id == mine.pk
    assert LogEntry.objects.get().user.username == "op"


@pytest.mark.parametrize(("period", "hours"), [("hour", 1), ("day", 24), ("week", 168), ("ever", None)])
def test_a_group_is_ignored_as_long_as_was_chosen(client_who_may, period, hours):
    client = client_who_may("view_errorgroup", "resolve_errorgroup")
    mine = group()

    act(client, "ignore", mine, period=period)

    until = fresh(mine).ignored_until
    assert fresh(mine).state == "ignored"
    assert (
        (until is None)
        if hours is None
        else abs(until - timezone.now() - timedelta(hours=hours)) < timedelta(minutes=1)
    )


def test_reopen_puts_a_group_back(client_who_may):
    client = client_who_may("view_errorgroup", "resolve_errorgroup")
    mine = group(state="resolved")

    act(client, "reopen", mine)

    assert fresh(mine).state == "open"


def test_the_buttons_of_a_group_are_renewed_with_its_state(client_who_may, job_factory):
    client = client_who_may("view_errorgroup", "resolve_errorgroup", "bulk_job", "requeue_job")
    mine = group()

    def offered():
        region = client.get(reverse("admin:django_jobs_error_region", args=[mine.pk])).text
        urls = {verb: reverse(f"admin:django_jobs_error_{verb}", args=[mine.pk]) for verb in VERBS}
        return {verb for verb, url in urls.items() if f'"{url}"' in region}

    assert offered() == {"resolve", "ignore"}
    failed_as(job_factory, mine)
    assert offered() == {"resolve", "ignore", "requeue"}
    errors.resolve(mine)
    assert offered() == {"reopen", "requeue"}


def test_a_decision_that_does_not_apply_is_told(client_who_may):
    client = client_who_may("view_errorgroup", "resolve_errorgroup")
    mine = group(state="resolved")

    page = act(client, "resolve", mine)

    assert "is resolved" in page.text
    assert not LogEntry.objects.exists()


@pytest.mark.parametrize("verb", ACTIONS)
def test_who_may_only_look_decides_nothing(client_who_may, verb):
    client = client_who_may("view_errorgroup", "bulk_job", "requeue_job")
    mine = group(**decided("ignored" if verb == "reopen" else "open"))

    assert act(client, verb, mine).status_code == 403

    assert fresh(mine).state == mine.state
    page = client.get(reverse(ERROR, args=[mine.pk])).text
    assert reverse(f"admin:django_jobs_error_{verb}", args=[mine.pk]) not in page


@pytest.mark.parametrize("verb", ACTIONS)
def test_who_may_not_see_groups_decides_nothing(client_who_may, verb):
    client = client_who_may("resolve_errorgroup")
    mine = group()

    assert act(client, verb, mine).status_code == 403
    assert fresh(mine).state == "open"


@pytest.mark.parametrize("verb", [*ACTIONS, "requeue"])
def test_nothing_is_done_while_all_is_read_only(client_who_may, settings, job_factory, verb):
    settings.DJANGO_JOBS = {**settings.DJANGO_JOBS, "READ_ONLY": True}
    client = client_who_may("view_errorgroup", "resolve_errorgroup", "bulk_job", "requeue_job")
    mine = group(**decided("ignored" if verb == "reopen" else "open"))
    failed_as(job_factory, mine)

    assert act(client, verb, mine).status_code == 403

    assert fresh(mine).state == mine.state
    assert not Operation.objects.exists()
    page = client.get(reverse(ERROR, args=[mine.pk])).text
    assert reverse(f"admin:django_jobs_error_{verb}", args=[mine.pk]) not in page


@pytest.mark.parametrize("verb", ACTIONS)
def test_decisions_are_made_by_post_alone(client_who_may, verb):
    client = client_who_may("view_errorgroup", "resolve_errorgroup")
    mine = group()

    assert client.get(reverse(f"admin:django_jobs_error_{verb}", args=[mine.pk])).status_code == 405
    assert fresh(mine).state == "open"


def test_requeueing_a_group_states_the_number_first_and_goes_on_in_the_background(
    client_who_may, job_factory
):
    client = client_who_may("view_errorgroup", "bulk_job", "requeue_job", "view_operation")
    mine = group()
    for _ in range(3):
        failed_as(job_factory, mine)

    asked = client.get(reverse("admin:django_jobs_error_requeue", args=[mine.pk]))
    answer = client.post(reverse("admin:django_jobs_error_requeue", args=[mine.pk]))

    assert "3 failed jobs of this group will be requeued." in asked.text
    assert f"{mine.error_type}: {mine.message}" in asked.text
    assert reverse("admin:django_jobs_errorgroup_change", args=[mine.pk]) in asked.text.split("<h1>")[0]
    operation = Operation.objects.get()
    assert operation.search == f"status:failed fingerprint:{mine.pk}"
    assert operation.verb == Operation.Verb.REQUEUE
    assert operation.by == User.objects.get()
    assert answer.url == reverse("admin:django_jobs_operation_change", args=[operation.pk])


@pytest.mark.parametrize("lacking", ["bulk_job", "requeue_job", "view_errorgroup"])
def test_requeueing_a_group_takes_each_of_its_permissions(client_who_may, job_factory, lacking):
    client = client_who_may(*{"view_errorgroup", "bulk_job", "requeue_job"} - {lacking})
    mine = group()
    failed_as(job_factory, mine)
    requeue = reverse("admin:django_jobs_error_requeue", args=[mine.pk])

    assert client.get(requeue).status_code == 403
    assert client.post(requeue).status_code == 403
    assert not Operation.objects.exists()


@pytest.mark.parametrize("name", ["region", "change", "error_region", "changelist"])
def test_pages_of_errors_are_closed_to_staff_without_permission(client_who_may, name):
    client = client_who_may("view_job")
    mine = group()
    urls = {
        "changelist": reverse(ERRORS),
        "region": reverse("admin:django_jobs_errors_region"),
        "change": reverse(ERROR, args=[mine.pk]),
        "error_region": reverse("admin:django_jobs_error_region", args=[mine.pk]),
    }

    assert client.get(urls[name]).status_code == 403


def test_a_group_that_is_gone_is_not_found(client_who_may):
    client = client_who_may("view_errorgroup")

    for key in ("0" * 32, "\0"):
        assert client.get(reverse(ERROR, args=[key])).status_code == 404


def test_regions_are_sent_once_and_are_the_same_as_on_their_page(client_who_may, job_factory):
    client = client_who_may("view_errorgroup", "view_job", "view_job_arguments")
    mine = group()
    failed_as(job_factory, mine)

    for page, region in [
        (reverse(ERRORS), reverse("admin:django_jobs_errors_region")),
        (reverse(ERROR, args=[mine.pk]), reverse("admin:django_jobs_error_region", args=[mine.pk])),
    ]:
        answer = client.get(region)
        assert answer.text in client.get(page).text
        assert client.get(region, headers={"if-none-match": answer["ETag"]}).status_code == 304


def test_the_list_costs_the_same_for_one_group_and_for_fifty(client_who_may, job_factory):
    client = client_who_may("view_errorgroup", "view_job")
    failed_as(job_factory, group(1))
    region = reverse("admin:django_jobs_errors_region")
    with CaptureQueriesContext(
        connection,
    ) as few:
        client.get(region)
    for number in range(2, 52):
        failed_as(job_factory, group(number))

    with CaptureQueriesContext(connection) as many:
        client.get(region)

    assert len(many) == len(few) <= 20
