"""The page of the workers."""

from datetime import timedelta
from uuid import uuid4

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.db import connection
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from django_jobs.models import Worker
from django_jobs.states import FINISHED, STARTED
from tests.conftest import fresh, make_worker

pytestmark = pytest.mark.usefixtures("valkey")

WORKERS = "admin:django_jobs_workers"
ORDERS = ["quiet", "unquiet", "stop"]


def url(verb, worker):
    return reverse(f"admin:django_jobs_worker_{verb}", args=[worker.pk])


def stop_job(job):
    return reverse("admin:django_jobs_worker_stop_job", args=[job.pk])


def rows(client, **query):
    return client.get(reverse(WORKERS), query).context["rows"]


def test_a_worker_is_shown_with_what_it_runs_and_how_it_is(client_who_may, job_factory):
    client = client_who_may("view_worker", "view_job", "view_job_arguments")
    worker = make_worker(
        name="alpha",
        queues=["mail", "files"],
        state="busy",
        memory_bytes=3 * 1024 * 1024,
        cpu_percent=12.4,
        finished_count=1234,
        failed_count=5,
    )
    jobs = [job_factory(status=STARTED, worker=worker, args=[number], progress=40) for number in (1, 2)]

    page = client.get(reverse(WORKERS)).text

    for told in (
        "alpha",
        "host, pid 1",
        "mail, files",
        "busy",
        "3.0\xa0MB",
        "12 %",
        "1,234",
        "add(1)",
        "add(2)",
        "40 %",
    ):
        assert told in page
    assert reverse("admin:django_jobs_job_change", args=[jobs[0].pk]) in page


def test_what_a_worker_does_not_tell_is_no_zero(client_who_may):
    client = client_who_may("view_worker")
    make_worker()

    assert client.get(reverse(WORKERS)).text.count("not told") == 2


def test_a_silent_worker_comes_first_with_the_evidence(client_who_may):
    client = client_who_may("view_worker", "manage_worker")
    make_worker(name="a lives")
    gone = make_worker(name="z silent", leased_until=Now() - timedelta(minutes=1))

    first, second = rows(client)

    assert (first.name, second.name) == ("z silent", "a lives")
    assert "silent" in first.state
    assert "It last renewed its lease at" in first.evidence
    assert second.evidence == ""
    assert url("stop", gone) not in client.get(reverse(WORKERS)).text


def test_workers_are_found_by_name_and_host(client_who_may):
    client = client_who_may("view_worker")
    make_worker(name="alpha", hostname="one")
    make_worker(name="beta", hostname="two")

    assert [row.name for row in rows(client, q="ALPH")] == ["alpha"]
    assert [row.name for row in rows(client, q="two")] == ["beta"]
    assert rows(client, q="%") == []
    assert rows(client, q="\0") == []


def test_a_silent_worker_is_told_as_such_however_many_have_been_silent_for_longer(
    client_who_may, monkeypatch
):
    monkeypatch.setattr("django_jobs.admin.workers.MOST_WORKERS", 1)
    client = client_who_may("view_worker")
    for hours in (1, 2, 3):
        make_worker(name=f"w{hours}", leased_until=Now() - timedelta(hours=hours))

    for name in ("w1", "w2", "w3"):
        assert "silent" in rows(client, q=name)[0].state


def test_no_more_workers_are_listed_than_fit_and_the_page_says_so(client_who_may, monkeypatch):
    monkeypatch.setattr("django_jobs.admin.workers.MOST_WORKERS", 2)
    client = client_who_may("view_worker")
    for number in range(3):
        make_worker(name=f"w{number}")

    assert len(rows(client)) == 2
    assert "There are more workers" in client.get(reverse(WORKERS)).text


def test_what_workers_are_called_is_escaped(client_who_may, job_factory):
    client = client_who_may("view_worker", "view_job", "view_job_arguments", "manage_worker")
    worker = make_worker(name="<b>w", hostname="<b>h", queues=["<b>q"])
    job_factory(status=STARTED, worker=worker, args=["<b>a"])

    page = client.get(reverse(WORKERS)).text

    assert "<b>" not in page
    assert "&lt;b&gt;w" in page
    assert "<b>" not in client.get(url("stop", worker)).text


def test_jobs_and_arguments_are_for_those_who_may_see_them(client_who_may, job_factory):
    client = client_who_may("view_worker")
    job_factory(status=STARTED, args=[4242])

    assert "add(" not in client.get(reverse(WORKERS)).text


@pytest.mark.parametrize(
    ("verb", "before", "after"), [("quiet", "", "quiet"), ("unquiet", "quiet", ""), ("stop", "", "stop")]
)
def test_a_worker_is_asked_and_that_leaves_a_trace(client_who_may, verb, before, after):
    client = client_who_may("view_worker", "manage_worker")
    worker = make_worker(order=before)

    page = client.post(url(verb, worker), follow=True)

    assert fresh(worker).order == after
    assert "w1 was asked to" in page.text
    assert LogEntry.objects.get().user == User.objects.get()
    assert LogEntry.objects.get().object_repr == "w1"


def test_stopping_a_worker_asks_first(client_who_may, job_factory):
    client = client_who_may("view_worker", "manage_worker")
    worker = make_worker()
    job_factory(status=STARTED, worker=worker)

    page = client.get(url("stop", worker)).text

    assert "It runs 1 job" in page
    assert fresh(worker).order == ""


def test_buttons_fit_what_a_worker_was_asked(client_who_may):
    client = client_who_may("view_worker", "manage_worker")
    worker = make_worker()

    def offered():
        page = client.get(reverse(WORKERS)).text
        return [verb for verb in ORDERS if url(verb, worker) in page]

    assert offered() == ["quiet", "stop"]
    Worker.objects.update(order="quiet")
    assert offered() == ["unquiet", "stop"]
    Worker.objects.update(order="stop")
    assert offered() == []


def test_a_running_job_is_stopped_after_asking(client_who_may, job_factory):
    client = client_who_may("view_worker", "view_job", "stop_job")
    job = job_factory(status=STARTED)
    assert stop_job(job) in client.get(reverse(WORKERS)).text

    assert "Stop add(…)?" in client.get(stop_job(job)).text
    assert fresh(job).cancel_requested_at is None

    page = client.post(stop_job(job), follow=True)
    assert fresh(job).cancel_requested_at
    assert job.events.get().by == User.objects.get()
    assert "canceling" in page.text
    assert stop_job(job) not in page.text


def test_stopping_a_job_that_has_ended_is_told(client_who_may, job_factory):
    client = client_who_may("view_worker", "view_job", "stop_job")
    job = job_factory(status=FINISHED)

    assert "is finished" in client.post(stop_job(job), follow=True).text


@pytest.mark.parametrize("verb", ORDERS)
@pytest.mark.parametrize("lacking", ["view_worker", "manage_worker"])
def test_workers_are_managed_with_both_permissions_alone(client_who_may, verb, lacking):
    client = client_who_may(*{"view_worker", "manage_worker", "stop_job"} - {lacking})
    worker = make_worker(order="quiet" if verb == "unquiet" else "")

    assert client.post(url(verb, worker)).status_code == 403

    assert fresh(worker).order == worker.order
    if lacking == "manage_worker":
        assert url(verb, worker) not in client.get(reverse(WORKERS)).text


@pytest.mark.parametrize("lacking", ["view_worker", "view_job", "stop_job"])
def test_stopping_a_job_takes_its_permission(client_who_may, job_factory, lacking):
    client = client_who_may(
        *{"view_worker", "manage_worker", "view_job", "cancel_job", "stop_job"} - {lacking}
    )
    job = job_factory(status=STARTED)

    assert client.get(stop_job(job)).status_code == 403
    assert client.post(stop_job(job)).status_code == 403

    assert fresh(job).cancel_requested_at is None
    if lacking != "view_worker":
        assert stop_job(job) not in client.get(reverse(WORKERS)).text


@pytest.mark.parametrize("verb", ORDERS)
def test_nothing_is_done_while_all_is_read_only(client_who_may, job_factory, settings, verb):
    settings.DJANGO_JOBS = {**settings.DJANGO_JOBS, "READ_ONLY": True}
    client = client_who_may("view_worker", "manage_worker", "view_job", "stop_job")
    worker = make_worker(order="quiet" if verb == "unquiet" else "")
    job = job_factory(status=STARTED, worker=worker)

    assert client.post(url(verb, worker)).status_code == 403
    assert client.post(stop_job(job)).status_code == 403

    assert fresh(worker).order == worker.order
    assert fresh(job).cancel_requested_at is None
    page = client.get(reverse(WORKERS)).text
    assert url(verb, worker) not in page
    assert stop_job(job) not in page


@pytest.mark.parametrize("verb", ["quiet", "unquiet"])
def test_workers_are_asked_by_post_alone(client_who_may, verb):
    client = client_who_may("view_worker", "manage_worker")

    assert client.get(url(verb, make_worker())).status_code == 405


def test_a_worker_that_is_gone_is_not_found(client_who_may):
    client = client_who_may("view_worker", "manage_worker")
    gone = Worker(pk=uuid4())

    assert client.post(url("quiet", gone)).status_code == 404
    assert client.get(url("stop", gone)).status_code == 404


@pytest.mark.parametrize("page", ["workers", "workers_region"])
def test_pages_of_workers_are_closed_to_staff_without_permission(client_who_may, page):
    client = client_who_may("view_job", "manage_worker")

    assert client.get(reverse(f"admin:django_jobs_{page}")).status_code == 403


def test_the_region_is_sent_once_and_is_the_same_as_on_the_page(client_who_may, job_factory):
    client = client_who_may("view_worker", "manage_worker", "view_job", "stop_job")
    job_factory(status=STARTED)
    region = reverse("admin:django_jobs_workers_region")

    answer = client.get(region)

    assert answer.text in client.get(reverse(WORKERS)).text
    assert client.get(region, headers={"if-none-match": answer["ETag"]}).status_code == 304


def test_the_page_costs_the_same_for_one_worker_and_for_fifty(client_who_may, job_factory):
    client = client_who_may("view_worker", "manage_worker", "view_job", "view_job_arguments")

    def queries():
        with CaptureQueriesContext(connection) as captured:
            client.get(reverse("admin:django_jobs_workers_region"))
        return len(captured)

    job_factory(status=STARTED, queue="mail")
    few = queries()
    for number in range(50):
        worker = make_worker(name=f"w{number}", memory_bytes=1)
        for _ in range(3):
            job_factory(status=STARTED, worker=worker)

    assert queries() == few <= 20
