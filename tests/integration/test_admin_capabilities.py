"""What an engine cannot do is shown as not available, in words, on each page that offers it for another."""

import re
from datetime import timedelta

import pytest
from django.db.models.functions import Now
from django.urls import reverse
from django.utils import translation

from django_jobs import task
from django_jobs.models import Job
from django_jobs.states import STARTED
from tests import tasks
from tests.conftest import fresh, make_worker

pytestmark = pytest.mark.usefixtures("bare_engine")

CANNOT_STOP = "The engine bare cannot stop a job that runs."
NO_ORDERS = "Workers of the engine bare take no orders. Stop the worker where it was started."
NO_PLAIN_JOBS = "The engine bare does not tell of jobs that other code enqueues with its own library."
NOT_FIRST = "The engine bare lets no job go before the others of its queue."


def url(name, *arguments):
    return reverse(f"admin:django_jobs_{name}", args=arguments)


def disabled(page):
    """The buttons that do nothing: {what stands on it: the words that it is described by}."""
    buttons = re.findall(r'<button[^>]* disabled aria-describedby="([\w-]+)"[^>]*>(.*?)</button>', page)
    told = {name: re.search(rf'id="{name}"[^>]*>(.*?)</', page)[1] for name, _ in buttons}
    return {re.sub(r"<.*", "", text): told[name] for name, text in buttons}


@pytest.fixture
def letters(job_factory):
    """Jobs of the bare engine."""

    def make(**values):
        if values.get("status") == STARTED:
            values.setdefault("worker", make_worker(engine="bare", queues=["letters"]))
        return job_factory(engine="bare", queue="letters", **values)

    return make


# A job


def test_a_job_that_cannot_be_stopped_says_so_and_what_to_do_instead(client_who_may, letters):
    client = client_who_may("view_job", "stop_job", "fail_job")
    page = client.get(url("job_change", letters(status=STARTED).pk)).text

    assert disabled(page)["Stop"].startswith(f"{CANNOT_STOP} Wait until it has ended, or mark it as failed")
    assert 'value="stop"' not in page
    assert 'value="mark_failed"' in page


def test_it_is_not_said_to_those_who_may_not_stop_jobs(client_who_may, letters):
    client = client_who_may("view_job", "fail_job")

    page = client.get(url("job_change", letters(status=STARTED).pk)).text

    assert "cannot stop" not in page


def test_it_is_not_said_of_jobs_that_can_be_stopped_or_do_not_run(client_who_may, letters, job_factory):
    client = client_who_may("view_job", "stop_job", "cancel_job")
    elsewhere = letters(status=STARTED, worker=None, elsewhere_until=Now() + timedelta(hours=1))

    for job in (job_factory(status=STARTED), elsewhere, letters()):
        page = client.get(url("job_change", job.pk)).text

        assert "cannot stop" not in page
        assert disabled(page) == {}


def test_a_jobs_page_names_its_engine_and_leads_to_the_jobs_of_it(client_who_may, letters, job_factory):
    client = client_who_may("view_job")
    job, other = letters(), job_factory()

    assert f'{url("job_changelist")}?q=engine%3Abare">bare</a>' in client.get(url("job_change", job.pk)).text
    found = client.get(url("job_changelist"), {"q": "engine:bare"}).text

    assert str(job.pk) in found
    assert str(other.pk) not in found


# Jobs


def test_the_engine_is_one_of_the_filters(client_who_may, letters):
    client = client_who_may("view_job")

    answer = client.get(url("job_changelist"), {"q": "x", "engine": "bare"})

    assert answer.url == f"{url('job_changelist')}?q=x+engine%3Abare"
    page = client.get(answer.url).text
    assert re.search(r'<select name="engine">.*<option selected>bare</option><option>rq</option>', page)


def ask(client, verb, *jobs, **values):
    return client.post(url("job_act"), {"verb": verb, "job": [job.pk for job in jobs], **values}, follow=True)


@pytest.mark.parametrize(
    ("verb", "then"),
    [
        ("stop", "Such jobs are left alone."),
        ("cancel", "Such jobs are left alone."),
        ("mark_failed", "The functions of such jobs go on, but how they end changes nothing."),
        ("delete", "The functions of such jobs go on, but how they end changes nothing."),
    ],
)
def test_before_it_is_done_to_several_the_question_tells_what_becomes_of_those_that_cannot_be_stopped(
    admin_client, letters, job_factory, verb, then
):
    running, other = letters(status=STARTED), job_factory(status=STARTED)

    for page in (
        ask(admin_client, verb, running, other).text,
        ask(admin_client, verb, scope="all", q="status:started").text,
    ):
        assert f"<p>{CANNOT_STOP} {then}</p>" in page
    for page in (
        ask(admin_client, verb, other).text,
        ask(admin_client, verb, scope="all", q="status:queued").text,
        ask(admin_client, verb, scope="all", q="engine:rq").text,
    ):
        assert "bare" not in page


def test_those_that_cannot_be_stopped_are_left_alone_and_counted(admin_client, letters, job_factory):
    running, other = letters(status=STARTED), job_factory(status=STARTED)

    page = ask(admin_client, "stop", running, other, confirmed="yes").text

    assert "1 job is being stopped." in page
    assert "1 left alone: not supported by bare." in page
    assert (fresh(running).is_canceling, fresh(other).is_canceling) == (False, True)


def test_a_stop_that_a_page_of_long_ago_asks_for_is_refused_with_the_reason(admin_client, letters):
    job = letters(status=STARTED)

    page = ask(admin_client, "stop", job, **{"from": "page", "confirmed": "yes"}).text

    assert f"Job {job.pk}: {CANNOT_STOP}" in page
    assert not fresh(job).is_canceling


# Queues


def test_a_queue_tells_that_plain_jobs_are_not_seen(client_who_may, letters):
    client = client_who_may("view_queue")
    letters()

    page = client.get(url("queue", "letters")).text
    assert f'<dt>Plain jobs</dt><dd>not available <span class="jobs-note">{NO_PLAIN_JOBS}</span></dd>' in page
    assert "<dt>Queued</dt><dd>1</dd>" in page

    assert "Plain jobs" not in client.get(url("queue", "vectorization")).text


def test_the_list_of_queues_tells_which_figures_are_without_plain_jobs_and_why(client_who_may, letters):
    client = client_who_may("view_queue")
    letters()

    page = client.get(url("queues")).text

    rows = dict(re.findall(r'<tr data-jobs-key="(\w+ \w+)">(.*?)</tr>', page, re.DOTALL))
    assert "counted without plain jobs" in rows["bare letters"]
    assert "counted without plain jobs" not in rows["rq vectorization"]
    assert page.count(NO_PLAIN_JOBS) == 1


# Workers


def test_a_worker_that_takes_no_orders_has_buttons_that_say_so(client_who_may):
    client = client_who_may("view_worker", "manage_worker")
    make_worker(engine="bare", queues=["letters"])

    page = client.get(url("workers")).text

    assert disabled(page) == {"Quiet": NO_ORDERS, "Stop…": NO_ORDERS}
    assert "formaction" not in page


def test_one_that_went_silent_has_no_buttons_at_all(client_who_may):
    client = client_who_may("view_worker", "manage_worker")
    make_worker(engine="bare", leased_until=Now() - timedelta(minutes=1))

    page = client.get(url("workers")).text

    assert disabled(page) == {}
    assert NO_ORDERS not in page


def test_beside_a_job_that_cannot_be_stopped_stands_why(client_who_may, letters):
    client = client_who_may("view_worker", "view_job", "stop_job")
    job = letters(status=STARTED)

    page = client.get(url("workers")).text

    assert disabled(page) == {"Stop…": CANNOT_STOP}
    assert url("worker_stop_job", job.pk) not in page


@pytest.mark.parametrize("verb", ["quiet", "unquiet", "stop"])
def test_an_order_that_is_given_all_the_same_is_refused_with_the_reason(client_who_may, verb):
    client = client_who_may("view_worker", "manage_worker")
    worker = make_worker(engine="bare")

    page = client.post(url(f"worker_{verb}", worker.pk), follow=True).text

    assert f"Worker w1: {NO_ORDERS}" in page
    assert fresh(worker).order == ""


# Dashboard


def test_the_dashboard_tells_what_its_figures_are_without(client_who_may):
    page = client_who_may("view_job").get(url("dashboard_changelist")).text

    assert f"{NO_PLAIN_JOBS} These figures are without them." in page


# Enqueue


@pytest.fixture
def letter(forget_declared):
    return task(engine="bare", queue="letters", name="tests.tasks.letter")(tasks.undeclared)


def test_the_form_tells_that_no_job_can_go_first(client_who_may, letter):
    client = client_who_may("enqueue_job")

    page = client.get(url("enqueue_task", letter.name)).text
    usual = client.get(url("enqueue_task", tasks.add.name)).text

    box = re.search(r'<input type="checkbox" name="options-at_front"[^>]*>', page)[0]
    assert " disabled" in box
    described_by = re.search(r'aria-describedby="([^"]+)"', box)[1]
    assert f'id="{described_by}">{NOT_FIRST}<' in page
    assert " disabled" not in re.search(r'<input type="checkbox" name="options-at_front"[^>]*>', usual)[0]


def test_a_job_that_is_to_go_first_all_the_same_is_refused_and_not_enqueued_otherwise(client_who_may, letter):
    client = client_who_may("enqueue_job")
    sent = {"call-number": "1", "options-queue": "letters", "options-max_retries": "0", "enqueue": "yes"}

    page = client.post(url("enqueue_task", letter.name), {**sent, "options-at_front": "on"}).text
    assert "at_front=True for tests.tasks.letter" in page
    assert Job.objects.count() == 0

    client.post(url("enqueue_task", letter.name), sent)
    assert Job.objects.get().engine == "bare"


# The language of the reader


@pytest.mark.parametrize("name", ["dashboard_changelist", "queues", "workers"])
def test_reasons_are_told_in_the_language_of_the_reader(admin_client, letters, name):
    letters(status=STARTED)

    with translation.override("zh-hant"):
        page = admin_client.get(url(name)).text

    assert "引擎 bare" in page
    assert "engine bare" not in page
