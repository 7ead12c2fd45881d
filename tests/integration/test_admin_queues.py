"""The pages of the queues."""

from datetime import timedelta

import pytest
from django.contrib.admin.utils import quote
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from django_jobs import control
from django_jobs.models import Operation, Queue, QueueEvent, Rollup
from django_jobs.models.figures import BOUNDS, bucket
from django_jobs.states import CANCELED, QUEUED, SCHEDULED, STARTED
from tests.conftest import fresh, make_worker

pytestmark = pytest.mark.usefixtures("valkey")

QUEUES = "admin:django_jobs_queues"
NAME = "file_processing"


def url(page, name=NAME):
    return reverse(f"admin:django_jobs_{page}", args=[quote(name)])


def row(client, name=NAME):
    return next(row for row in client.get(reverse(QUEUES)).context["rows"] if row.name == name)


def ran(name=NAME, *, count=10, run_seconds=20.0, at=None):
    """Attempts that ended on this queue a few minutes ago, of two seconds each."""
    histogram = [0] * (len(BOUNDS) + 1)
    histogram[bucket(2)] = count
    start = (at or timezone.now() - timedelta(minutes=5)).replace(second=0, microsecond=0)
    Rollup.objects.create(
        period="minute",
        start=start,
        queue=name,
        finished=count,
        run_seconds=run_seconds,
        runs=histogram,
        waits=histogram,
    )


def test_each_declared_queue_is_shown_with_what_waits_and_runs_on_it(client_who_may, job_factory):
    client = client_who_may("view_queue")
    job_factory(queued_at=Now() - timedelta(hours=2))
    job_factory(status=SCHEDULED, scheduled_for=Now() + timedelta(hours=1))
    job_factory(status=STARTED, worker=make_worker(queues=[NAME], slots=4))

    names = [row.name for row in client.get(reverse(QUEUES)).context["rows"]]
    shown = row(client)

    assert names == ["file_processing", "vectorization", "kg_extraction"]
    assert (shown.queued, shown.scheduled, shown.running, shown.figures.workers) == ("1", "1", "1", 1)
    assert "busy" in shown.state
    assert (timezone.now() - timedelta(hours=2)).strftime("%H:%M") in shown.oldest


def test_time_to_drain_is_what_waits_by_what_the_workers_do(client_who_may, job_factory):
    client = client_who_may("view_queue")
    make_worker(queues=[NAME, "vectorization"], slots=3)
    make_worker(queues=[NAME], slots=1)
    make_worker(queues=[NAME], slots=50, state="quiet")
    make_worker(queues=[NAME], slots=50, leased_until=Now() - timedelta(minutes=1))
    ran()
    for _ in range(6):
        job_factory()

    assert row(client).drain == "3 s"  # 6 jobs of 2 s, 4 at a time
    assert "Time to drain: queued jobs, times" in client.get(reverse(QUEUES)).text


def test_time_to_drain_is_unknown_where_it_cannot_be_told(client_who_may, job_factory):
    client = client_who_may("view_queue")
    job_factory()
    assert (row(client).drain, row(client).drain_note) == ("unknown", "nobody listens")

    make_worker(queues=[NAME])
    assert (row(client).drain, row(client).drain_note) == ("unknown", "nothing has run in the last hour")

    ran()
    control.pause(NAME)
    assert (row(client).drain, row(client).drain_note) == ("unknown", "it is paused")


def test_a_queue_that_nobody_declares_is_shown_with_what_is_wrong(client_who_may, job_factory):
    client = client_who_may("view_queue")
    job_factory(queue="<b>lost")

    page = client.get(reverse(QUEUES)).text

    assert "Jobs wait on the queue &lt;b&gt;lost, which" in page
    assert "not declared" in row(client, "<b>lost").state
    assert "it is not declared" in client.get(url("queue", "<b>lost")).text


def test_the_number_of_queued_jobs_leads_to_these_alone(client_who_may, job_factory):
    job_factory()

    shown = row(client_who_may("view_queue", "view_job"))

    assert "status%3Aqueued" in shown.jobs_url


def test_the_course_of_a_queue_leaves_out_the_minute_that_has_just_begun(client_who_may, monkeypatch):
    client, now = client_who_may("view_queue"), timezone.now().replace(second=30)
    ran(count=7, at=now - timedelta(minutes=1))
    monkeypatch.setattr(timezone, "now", lambda: now)  # No minute may end meanwhile.

    assert "last 7" in row(client).spark


def test_many_queues_are_on_pages_each_of_which_costs_the_same(client_who_may, job_factory, settings, valkey):
    client = client_who_may("view_queue")
    [usual, *_] = settings.RQ_QUEUES.values()
    make_worker(queues=["queue7", "queue77"], slots=3)
    make_worker(name="w2", queues=["queue77"])
    make_worker(name="w3", queues=["queue77"], state="quiet")

    def cost(of_page):
        before = valkey.info("stats")["total_commands_processed"]
        with CaptureQueriesContext(connection) as captured:
            client.get(reverse("admin:django_jobs_queues_region"), {"page": of_page})
        return len(captured), valkey.info("stats")["total_commands_processed"] - before

    settings.RQ_QUEUES = {f"queue{number}": usual for number in range(50)}
    cost(1)  # The first one connects.
    few = cost(1)
    settings.RQ_QUEUES = {f"queue{number}": usual for number in range(140)}
    job_factory(queue="queue77")

    assert [cost(number) for number in (1, 2, 3)] == [few] * 3
    page = client.get(reverse(QUEUES), {"page": "2"})
    assert [row.name for row in page.context["rows"]] == [f"queue{number}" for number in range(50, 100)]
    assert "Queues 51 to 100 of 140" in page.text
    assert 'href="?page=3" rel="next"' in page.text
    shown = {row.name: row.figures for row in page.context["rows"]}
    assert (shown["queue77"].workers, shown["queue77"].slots, shown["queue77"].queued) == (2, 4, 1)
    region = client.get(page.context["region_url"]).text
    assert "queue77" in region
    assert "queue7<" not in region


def test_a_queue_whose_server_is_away_says_so_and_tells_no_number_of_undelivered_jobs(
    client_who_may, job_factory, settings
):
    client = client_who_may("view_queue")
    job_factory()
    settings.RQ_QUEUES = {name: {"URL": "redis://127.0.0.1:1/0"} for name in settings.RQ_QUEUES}

    assert "127.0.0.1:1" in row(client).figures.error
    page = client.get(url("queue")).text
    assert "not available" in page
    assert "its server cannot be asked" in page


def test_pause_holds_a_queue_and_tells_by_whom(client_who_may):
    client = client_who_may("view_queue", "manage_queue")

    page = client.post(url("queue_pause"), {"from": "queues"}, follow=True)

    assert Queue.objects.get(name=NAME).paused
    assert "The queue file_processing is paused" in page.text
    assert QueueEvent.objects.get().by == User.objects.get()
    assert row(client).paused_by == "op"
    assert "paused" in row(client).state


def test_resume_lets_a_queue_go_on(client_who_may):
    client = client_who_may("view_queue", "manage_queue")
    control.pause(NAME)

    answer = client.post(url("queue_resume"), {"from": "queue"})

    assert not Queue.objects.get(name=NAME).paused
    assert answer.url == url("queue")
    assert row(client).paused_by == ""


def test_the_button_of_a_queue_is_renewed_with_its_state(client_who_may):
    client = client_who_may("view_queue", "manage_queue")
    pause, resume = (f'formaction="{url(f"queue_{verb}")}"' for verb in ("pause", "resume"))

    before = client.get(url("queue_region")).text
    control.pause(NAME)
    after = client.get(url("queue_region")).text

    assert (pause in before, resume in before) == (True, False)
    assert (pause in after, resume in after) == (False, True)


def test_emptying_a_queue_states_the_number_first(client_who_may, job_factory):
    client = client_who_may("view_queue", "manage_queue")
    jobs = [job_factory() for _ in range(3)]
    scheduled = job_factory(status=SCHEDULED, scheduled_for=Now() + timedelta(hours=1))

    asked = client.get(url("queue_empty")).text
    assert "3 queued jobs of file_processing will be canceled." in asked
    assert {fresh(job).status for job in jobs} == {QUEUED}

    page = client.post(url("queue_empty"), follow=True).text
    assert "3 jobs were canceled." in page
    assert {fresh(job).status for job in jobs} == {CANCELED}
    assert fresh(scheduled).status == SCHEDULED


def test_emptying_a_queue_of_many_goes_on_in_the_background(client_who_may, job_factory, monkeypatch):
    monkeypatch.setattr("django_jobs.admin.queue_actions.MOST_EMPTIED", 2)
    client = client_who_may("view_queue", "manage_queue", "bulk_job", "cancel_job")
    jobs = [job_factory() for _ in range(3)]

    answer = client.post(url("queue_empty"))

    operation = Operation.objects.get()
    assert (operation.verb, operation.search) == ("cancel", f"queue:{NAME} status:queued")
    assert answer.url == reverse("admin:django_jobs_operation_change", args=[operation.pk])
    assert {fresh(job).status for job in jobs} == {QUEUED}
    event = QueueEvent.objects.get(queue=NAME, kind="emptied", by__username="op")
    assert str(operation.pk) in event.message


def test_emptying_a_queue_of_many_takes_the_permission_for_many(client_who_may, job_factory, monkeypatch):
    monkeypatch.setattr("django_jobs.admin.queue_actions.MOST_EMPTIED", 2)
    client = client_who_may("view_queue", "manage_queue")
    for _ in range(3):
        job_factory()

    assert client.post(url("queue_empty")).status_code == 403
    assert not Operation.objects.exists()


def test_moving_what_waits_states_the_number_and_goes_on_in_the_background(client_who_may, job_factory):
    client = client_who_may("view_queue", "bulk_job", "move_job")
    job_factory()
    job_factory(status=SCHEDULED, scheduled_for=Now() + timedelta(hours=1))
    job_factory(status=STARTED)

    asked = client.get(url("queue_move"))
    assert "2 waiting jobs of file_processing will wait on the other queue." in asked.text
    assert "vectorization" in asked.text

    answer = client.post(url("queue_move"), {"queue": "vectorization"})
    operation = Operation.objects.get()
    assert operation.verb == "move"
    assert operation.options["queue"] == "vectorization"
    assert operation.search.startswith(f"queue:{NAME} -status:started")
    assert answer.url == reverse("admin:django_jobs_operation_change", args=[operation.pk])


@pytest.mark.parametrize("chosen", ["", NAME, "nowhere"])
def test_jobs_are_moved_to_another_declared_queue_alone(client_who_may, job_factory, chosen):
    client = client_who_may("view_queue", "bulk_job", "move_job")
    job_factory()

    assert client.post(url("queue_move"), {"queue": chosen}).status_code == 200
    assert not Operation.objects.exists()


@pytest.mark.parametrize("verb", ["pause", "resume", "empty"])
@pytest.mark.parametrize("lacking", ["view_queue", "manage_queue"])
def test_queues_are_managed_with_both_permissions_alone(client_who_may, job_factory, verb, lacking):
    client = client_who_may(*{"view_queue", "manage_queue"} - {lacking})
    job = job_factory()
    if verb == "resume":
        control.pause(NAME)

    assert client.post(url(f"queue_{verb}")).status_code == 403

    assert fresh(job).status == QUEUED
    assert Queue.objects.filter(paused=True).exists() is (verb == "resume")


@pytest.mark.parametrize("lacking", ["view_queue", "bulk_job", "move_job"])
def test_moving_takes_each_of_its_permissions(client_who_may, job_factory, lacking):
    client = client_who_may(*{"view_queue", "bulk_job", "move_job"} - {lacking})
    job_factory()

    assert client.get(url("queue_move")).status_code == 403
    assert client.post(url("queue_move"), {"queue": "vectorization"}).status_code == 403
    assert not Operation.objects.exists()


def test_buttons_are_for_those_who_may_press_them(client_who_may, job_factory, settings):
    client = client_who_may("view_queue", "manage_queue", "bulk_job", "move_job")
    buttons = [url(f"queue_{verb}") for verb in ("pause", "empty", "move")]
    assert all(button in client.get(url("queue")).text for button in buttons)

    settings.DJANGO_JOBS = {**settings.DJANGO_JOBS, "READ_ONLY": True}
    assert not [button for button in buttons if button in client.get(url("queue")).text]
    assert buttons[0] not in client.get(reverse(QUEUES)).text

    settings.DJANGO_JOBS = {**settings.DJANGO_JOBS, "READ_ONLY": False}
    User.objects.get().user_permissions.set(User.objects.get().user_permissions.filter(codename="view_queue"))
    assert not [button for button in buttons if button in client.get(url("queue")).text]
    assert buttons[0] not in client.get(reverse(QUEUES)).text


@pytest.mark.parametrize("verb", ["pause", "resume", "empty", "move"])
def test_nothing_is_done_while_all_is_read_only(client_who_may, job_factory, settings, verb):
    settings.DJANGO_JOBS = {**settings.DJANGO_JOBS, "READ_ONLY": True}
    client = client_who_may("view_queue", "manage_queue", "bulk_job", "move_job")
    job = job_factory()

    assert client.post(url(f"queue_{verb}"), {"queue": "vectorization"}).status_code == 403

    assert fresh(job).status == QUEUED
    assert not QueueEvent.objects.exists()
    assert not Operation.objects.exists()


@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_queues_are_paused_and_resumed_by_post_alone(client_who_may, verb):
    client = client_who_may("view_queue", "manage_queue")

    assert client.get(url(f"queue_{verb}")).status_code == 405


@pytest.mark.parametrize("name", ["no/such queue", "no\0queue"])
def test_a_queue_that_nobody_knows_is_not_found(client_who_may, name):
    client = client_who_may("view_queue", "manage_queue", "bulk_job", "move_job")

    for page in ("queue", "queue_region", "queue_empty", "queue_move"):
        assert client.get(url(page, name)).status_code == 404
    assert client.post(url("queue_pause", name)).status_code == 404


def test_the_page_of_a_queue_shows_waits_tasks_newest_jobs_and_what_was_done_to_it(
    client_who_may, job_factory
):
    client = client_who_may("view_queue", "view_job", "view_job_arguments")
    ran()
    job_factory(args=[42])
    control.pause(NAME)

    page = client.get(url("queue")).text

    assert "up to 3 s" in page
    assert "add(42)" in page
    assert "tests.tasks.add" in page
    assert "paused" in page
    assert "<svg" in page


def test_the_page_of_a_queue_shows_jobs_and_arguments_to_those_who_may_see_them(client_who_may, job_factory):
    client = client_who_may("view_queue")
    job_factory(args=["letters.pdf"])
    assert "add(" not in client.get(url("queue")).text

    User.objects.get().user_permissions.add(Permission.objects.get(codename="view_job"))
    page = client.get(url("queue")).text
    assert "add(…)" in page
    assert "letters.pdf" not in page


def test_of_the_jobs_that_are_counted_by_their_task_no_arguments_are_read(client_who_may, job_factory):
    client = client_who_may("view_queue", "view_job", "view_job_arguments")
    jobs = [job_factory(args=[number]) for number in range(30)]

    with CaptureQueriesContext(connection) as queries:
        page = client.get(url("queue_region"))

    assert page.context["looked_at"] == 30
    assert "add(20)" in page.text
    for sql in (query["sql"].replace("-", "") for query in queries if '"args"' in query["sql"]):
        assert "short_args" in sql
        assert 1 <= sum(job.pk.hex in sql for job in jobs) <= 10


@pytest.mark.parametrize("page", ["queues", "queues_region", "queue", "queue_region"])
def test_pages_of_queues_are_closed_to_staff_without_permission(client_who_may, page):
    client = client_who_may("view_job", "manage_queue")
    address = reverse(f"admin:django_jobs_{page}") if page.startswith("queues") else url(page)

    assert client.get(address).status_code == 403


def test_regions_are_sent_once_and_are_the_same_as_on_their_page(client_who_may, job_factory):
    client = client_who_may("view_queue", "manage_queue", "view_job")
    job_factory()

    for page, region in [
        (reverse(QUEUES), reverse("admin:django_jobs_queues_region")),
        (url("queue"), url("queue_region")),
    ]:
        answer = client.get(region)
        assert answer.text in client.get(page).text
        assert client.get(region, headers={"if-none-match": answer["ETag"]}).status_code == 304


def test_pages_of_queues_cost_the_same_for_one_job_and_for_fifty(client_who_may, job_factory):
    client = client_who_may("view_queue", "view_job", "view_job_arguments")
    regions = [reverse("admin:django_jobs_queues_region"), url("queue_region")]

    def queries(region):
        with CaptureQueriesContext(connection) as captured:
            client.get(region)
        return len(captured)

    job_factory()
    control.pause(NAME)
    few = [queries(region) for region in regions]
    for _ in range(50):
        job_factory()
    control.pause("vectorization")

    assert [queries(region) for region in regions] == few
    assert max(few) <= 20
