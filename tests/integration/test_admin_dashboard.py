"""The frame of the admin's pages, and the dashboard."""

import re
from datetime import timedelta

import pytest
from django.contrib import admin
from django.contrib.auth.models import Permission, User
from django.db.models.functions import Now
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from django_jobs import figures
from django_jobs.models import Census, FigureDelta, Job, Lease, Queue, Rollup
from django_jobs.states import FAILED, FINISHED, QUEUED, STARTED
from django_jobs.verdict import MOST_TOLD
from tests.conftest import make_worker, wait_until
from tests.policy import violations

DASHBOARD, REGION, STRIP = (
    f"admin:django_jobs_{name}" for name in ("dashboard_changelist", "dashboard_region", "strip")
)
MINUTE = timedelta(minutes=1)
HOSTILE = """<script>alert(1)</script>"'&{0}%s"""

pytestmark = pytest.mark.usefixtures("valkey")


@pytest.fixture
def client_who_may(db, client: Client):
    """A logged-in member of staff with just the given permissions on django_jobs."""

    def log_in(*codenames: str) -> Client:
        user = User.objects.create_user("op", is_staff=True)
        user.user_permissions.set(
            Permission.objects.filter(content_type__app_label="django_jobs", codename__in=codenames)
        )
        client.force_login(user)
        return client

    return log_in


@pytest.fixture
def busy_day(job_factory):
    """Rows for each part of the dashboard, with hostile names where names go."""
    Lease.objects.create(name="maintainer", holder="m", expires_at=Now() + timedelta(hours=1))
    make_worker(name=HOSTILE, hostname=HOSTILE, leased_until=Now() - timedelta(minutes=1))
    job_factory(queue=HOSTILE)
    job_factory()
    job_factory(status=FAILED, error_type="ValueError", error_message=HOSTILE, args=[HOSTILE])
    for outcome, amount in (("finished", 82), ("failed", 18)):
        FigureDelta.objects.create(
            queue=HOSTILE, task=HOSTILE, outcome=outcome, amount=amount, wait_bucket=5, wait_seconds=50
        )
    figures.fold()


def see(client: Client, name: str, **query: str):
    return client.get(reverse(name), query)


@pytest.mark.parametrize("name", [DASHBOARD, REGION, STRIP])
def test_nothing_is_shown_to_staff_without_a_permission(client_who_may, name):
    assert see(client_who_may(), name).status_code == 403


@pytest.mark.parametrize("name", [DASHBOARD, REGION])
def test_the_dashboard_is_closed_to_those_who_may_not_see_jobs(client_who_may, name):
    assert see(client_who_may("view_queue", "cancel_job"), name).status_code == 403


@pytest.mark.parametrize("name", [DASHBOARD, REGION, STRIP])
def test_who_is_not_logged_in_is_asked_to(db, client, name):
    response = see(client, name)

    assert response.status_code == 302
    assert "/login/" in response["Location"]


def test_whoever_may_see_one_page_sees_the_strip_without_links_to_others(client_who_may, job_factory):
    job_factory()

    page = see(client_who_may("view_queue"), STRIP).text

    assert "Stalled" in page
    # Other pages lie below its address.
    assert f'"{reverse("admin:django_jobs_job_changelist")}?' not in page


def test_where_nothing_was_enqueued_it_says_what_to_do_first(client_who_may):
    page = see(client_who_may("view_job"), DASHBOARD).text

    assert "No job has been enqueued yet" in page
    assert "python manage.py rqworker" in page
    assert "What should run does" in page


def test_all_parts_are_there_and_hostile_names_stay_text(client_who_may, busy_day):
    page = see(client_who_may("view_job", "view_job_arguments", "view_queue", "view_worker"), DASHBOARD).text

    for words in ("Stalled", "No live worker listens on file_processing", "Queues with problems"):
        assert words in page
    for words in ("Tasks failing most", "Newest failures", "Workers gone silent", "18 %"):
        assert words in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script>alert" not in page
    assert "No job has been enqueued yet" not in page


@pytest.mark.parametrize("name", [DASHBOARD, REGION, STRIP])
def test_a_strict_policy_of_content_stops_nothing(client_who_may, busy_day, name):
    response = see(client_who_may("view_job", "view_job_arguments"), name)

    assert violations(response.text) == []


@pytest.mark.parametrize("model", ["job", "attempt"])
def test_lists_stand_in_the_frame(client_who_may, job_factory, model):
    client = client_who_may("view_job", "view_attempt")
    job_factory()

    page = client.get(reverse(f"admin:django_jobs_{model}_changelist")).text

    assert 'id="jobs-strip"' in page
    assert "Stalled" in page
    assert "django_jobs/live.js" in page


def test_a_jobs_page_stands_in_the_frame(client_who_may, job_factory):
    client = client_who_may("view_job")

    page = client.get(reverse("admin:django_jobs_job_change", args=[job_factory().pk])).text

    assert 'id="jobs-strip"' in page


def test_the_front_page_of_the_admin_leads_to_the_dashboard(client_who_may):
    page = client_who_may("view_job").get(reverse("admin:index")).text

    assert f'href="{reverse(DASHBOARD)}"' in page


def test_the_front_page_leads_nobody_to_the_dashboard_who_may_not_see_jobs(client_who_may):
    page = client_who_may("view_operation").get(reverse("admin:index")).text

    assert reverse("admin:django_jobs_operation_changelist") in page
    assert reverse(DASHBOARD) not in page


def test_the_navigation_shows_where_one_may_go_and_where_one_is(client_who_may):
    links = see(client_who_may("view_job"), DASHBOARD).context["navigation"]

    assert [(str(link.text), link.is_current) for link in links] == [("Dashboard", True), ("Jobs", False)]


def test_arguments_are_not_shown_to_those_who_may_not_see_them(client_who_may, job_factory):
    job_factory(status=FAILED, args=["private"])

    assert "private" not in see(client_who_may("view_job"), DASHBOARD).text


def only_own(user, jobs):
    return jobs.filter(owner=user)


def test_failures_are_those_of_jobs_that_the_user_may_see(client_who_may, job_factory, settings):
    settings.DJANGO_JOBS = {**settings.DJANGO_JOBS, "VISIBLE_JOBS": f"{__name__}.only_own"}
    client = client_who_may("view_job")
    job_factory(status=FAILED, error_type="Own", owner=User.objects.get())
    job_factory(status=FAILED, error_type="Others")

    page = see(client, DASHBOARD).text

    assert "Own" in page
    assert "Others" not in page


def test_the_newest_failures_are_those_that_failed_last_whenever_they_were_enqueued(
    client_who_may, job_factory
):
    client, now = client_who_may("view_job"), timezone.now()
    for ago in range(7):
        job_factory(status=FAILED, error_type=f"Ago{ago}", finished_at=now - ago * MINUTE)

    failures = see(client, DASHBOARD).context["failures"]

    assert [failure.error for failure in failures] == ["Ago0", "Ago1", "Ago2", "Ago3", "Ago4"]


def test_where_only_the_newest_are_looked_through_nothing_older_is_said_not_to_be(
    client_who_may, job_factory, settings, monkeypatch
):
    settings.DJANGO_JOBS = {**settings.DJANGO_JOBS, "VISIBLE_JOBS": f"{__name__}.only_own"}
    client, now = client_who_may("view_job"), timezone.now()
    job_factory(status=FAILED, error_type="Own", owner=User.objects.get(), finished_at=now - 9 * MINUTE)
    for ago in (3, 2, 1):
        job_factory(status=FAILED, error_type="Others", finished_at=now - ago * MINUTE)
    assert "Own" in see(client, DASHBOARD).text

    for module in ("django_jobs.searching.pages", "django_jobs.admin.dashboard"):
        monkeypatch.setattr(f"{module}.MOST_LOOKED_THROUGH", 2)
    page = see(client, DASHBOARD).text

    assert "No job has been enqueued yet" not in page
    assert "No job has failed." not in page
    assert f"Searched back to {timezone.localtime(now - 3 * MINUTE):%Y-%m-%d %H:%M:%S}" in page


@pytest.mark.parametrize("name", [REGION, STRIP])
def test_a_region_is_not_sent_again_unchanged(client_who_may, job_factory, name):
    client = client_who_may("view_job")
    first = see(client, name)

    again = client.get(reverse(name), headers={"If-None-Match": first["ETag"]})
    job_factory(status=FINISHED)
    changed = client.get(reverse(REGION), headers={"If-None-Match": first["ETag"]})

    assert first["Cache-Control"] == "no-cache, private"
    assert "Cookie" in first["Vary"]
    assert (again.status_code, again.content) == (304, b"")
    assert again["ETag"] == first["ETag"]
    assert changed.status_code == 200


def test_a_region_holds_what_the_page_holds(client_who_may, busy_day):
    client = client_who_may("view_job")

    def is_in_it() -> bool:
        page, region = see(client, DASHBOARD).text, see(client, REGION).text
        return region.strip() in page

    wait_until(is_in_it)  # Unless a second has passed between the two, which tell how old things are.


def test_how_often_pages_are_renewed_is_remembered(client_who_may):
    client = client_who_may("view_job")

    response = see(client, DASHBOARD, refresh="15", range="6h")
    page = see(client, DASHBOARD).text

    assert response.status_code == 302
    assert response["Location"] == f"{reverse(DASHBOARD)}?range=6h"
    assert 'data-jobs-interval="15"' in page


def test_the_list_of_jobs_takes_the_choice_of_the_strip_as_no_filter(client_who_may):
    client = client_who_may("view_job")

    response = see(client, "admin:django_jobs_job_changelist", refresh="0", q="x")

    assert response["Location"] == f"{reverse('admin:django_jobs_job_changelist')}?q=x"


@pytest.mark.parametrize("choice", ["1", "-5", "x", ""])
def test_an_interval_that_is_not_offered_is_not_taken(client_who_may, choice):
    client = client_who_may("view_job")

    see(client, DASHBOARD, refresh=choice)

    assert 'data-jobs-interval="5"' in see(client, DASHBOARD).text


def test_single_keys_can_be_switched_off(client_who_may):
    client = client_who_may("view_job")
    assert "data-jobs-shortcuts" not in see(client, DASHBOARD).text

    see(client, DASHBOARD, shortcuts="off")

    assert 'data-jobs-shortcuts="off"' in see(client, DASHBOARD).text


def test_read_only_is_said(client_who_may, settings):
    settings.DJANGO_JOBS = {**settings.DJANGO_JOBS, "READ_ONLY": True}

    assert "Read only" in see(client_who_may("view_job"), STRIP).text


@pytest.mark.parametrize("range_", ["1h", "6h", "24h", "7d", "100y"])
def test_the_chart_shows_the_chosen_range(client_who_may, busy_day, range_):
    period = "hour" if range_ == "7d" else "minute"
    start = timezone.now().replace(minute=0, second=0, microsecond=0)
    Rollup.objects.get_or_create(period=period, start=start, queue="", task="", defaults={"finished": 7})

    response = see(client_who_may("view_job"), DASHBOARD, range=range_)

    assert "jobs-throughput" in response.text
    assert [link.text for link in response.context["ranges"] if link.is_current] == [
        {"6h": "6 h", "24h": "24 h", "7d": "7 d"}.get(range_, "1 h")
    ]


def courses(page):
    """{the name of each of the six figures: what its line says, or None}"""
    return {
        str(card.name): (re.search("<desc>(.*)</desc>", card.course) or [None, None])[1]
        for card in page.context["cards"]
    }


def test_figures_that_nobody_has_counted_yet_have_no_line(client_who_may, job_factory):
    job_factory(status=STARTED)

    told = courses(see(client_who_may("view_job"), DASHBOARD))

    assert told["Running"] is told["Waiting"] is told["Workers"] is None


def test_figures_that_no_maintainer_counts_are_not_known(client_who_may, job_factory):
    client = client_who_may("view_job", "view_queue")
    job_factory(status=STARTED)
    FigureDelta.objects.create(queue="file_processing", task="t", outcome="failed", amount=3)

    dashboard = see(client, DASHBOARD)

    assert {str(each.name): each.value for each in dashboard.context["strip"].figures}["Failed in 1 h"] == (
        "not known"
    )
    cards = {str(card.name): card.value for card in dashboard.context["cards"]}
    assert (cards["Failed in 1 h"], cards["Finished per minute"]) == ("not known", "not known")
    assert "None failed." not in dashboard.text
    queues = see(client, "admin:django_jobs_queues").context["rows"]
    assert {row.ended for row in queues} == {"not known"}


def test_a_line_leads_from_each_census_to_what_is_now(client_who_may, job_factory):
    minute = figures.start_of("minute", timezone.now())
    for ago, waiting in ((40, 7), (2, 10_000), (90, 9_999)):
        Census.objects.create(start=minute - ago * MINUTE, running=5, waiting=waiting, workers=0)
    make_worker()
    job_factory()

    told = courses(see(client_who_may("view_job"), DASHBOARD))

    assert told["Running"] == "lowest 0, highest 5, last 0"
    assert told["Waiting"] == "lowest 1, highest 10,000+, last 1"
    assert told["Workers"] == "lowest 0, highest 1, last 1"


def test_the_course_of_a_queue_leaves_out_the_minute_that_has_just_begun(
    client_who_may, job_factory, monkeypatch
):
    client, now = client_who_may("view_job"), timezone.now().replace(second=30)
    minute = figures.start_of("minute", now)
    Rollup.objects.create(period="minute", start=minute - MINUTE, queue="file_processing", finished=5)
    job_factory()
    monkeypatch.setattr(timezone, "now", lambda: now)  # No minute may end meanwhile.

    [queue] = see(client, DASHBOARD).context["queues"]

    assert "highest 5, last 5" in queue["course"]


def test_any_site_that_shows_jobs_has_these_pages():
    site = admin.AdminSite(name="ops")
    site.register(Job, type(admin.site.get_model_admin(Job)))

    names = {pattern.name for pattern in site.get_model_admin(Job).get_urls()}

    assert {"django_jobs_queues", "django_jobs_workers", "django_jobs_strip"} <= names


def test_the_dashboard_costs_the_same_number_of_queries_for_many_jobs(
    client_who_may, busy_day, job_factory, django_assert_max_num_queries, monkeypatch
):
    client = client_who_may("view_job", "view_job_arguments")
    see(client, DASHBOARD)
    monkeypatch.setattr("django_jobs.verdict.KEPT_SECONDS", -1)
    with django_assert_max_num_queries(30) as few:
        see(client, REGION)
    states = (QUEUED, FINISHED, FAILED)
    Job.objects.bulk_create(
        Job(task="t", queue="file_processing", status=state)
        for state in states
        for _ in range(MOST_TOLD + 100)
    )

    with django_assert_max_num_queries(20) as many:
        see(client, REGION)

    assert len(many.captured_queries) == len(few.captured_queries)


def test_a_paused_queue_is_a_note(client_who_may, job_factory):
    Lease.objects.create(name="maintainer", holder="m", expires_at=Now() + timedelta(hours=1))
    Queue.objects.create(name="file_processing", paused=True)
    job_factory()

    page = see(client_who_may("view_job"), DASHBOARD).text

    assert "jobs-verdict-ok" in page
    assert "file_processing is paused, and 1 job waits on it." in page
