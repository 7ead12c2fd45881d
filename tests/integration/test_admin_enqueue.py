"""The pages on which people enqueue jobs."""

from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.auth.models import User
from django.urls import reverse
from django.utils import timezone

from django_jobs.models import Job
from django_jobs.states import QUEUED, SCHEDULED
from tests import tasks

pytestmark = pytest.mark.usefixtures("valkey")

TASKS = "admin:django_jobs_enqueue"
ADD = tasks.add.name


def url(task=ADD):
    return reverse("admin:django_jobs_enqueue_task", args=[task])


def written(button="enqueue", **values):
    """What a browser sends of the forms, with these fields filled in."""
    usual = {
        "call-left": "1",
        "call-right": "0",
        "options-queue": "file_processing",
        "options-max_retries": "0",
    }
    given = {
        f"options-{name}" if name in OPTIONS else f"call-{name}": value for name, value in values.items()
    }
    return {**usual, **given, button: "yes"}


OPTIONS = ("queue", "delay", "at", "at_front", "max_retries", "subject", "unique", "tags", "is_mine")


def test_tasks_are_listed_by_the_app_they_belong_to(client_who_may):
    client = client_who_may("enqueue_job")

    page = client.get(reverse(TASKS)).text

    assert url() in page
    assert "testproject.documents.tasks.process_vectorization_only_task" in page
    assert "Vectorize the chunks of a document anew" in page


def test_tasks_are_found_by_a_part_of_their_name(client_who_may):
    client = client_who_may("enqueue_job")

    groups = client.get(reverse(TASKS), {"q": "vector ONLY"}).context["groups"]

    assert [line.name for _app, lines in groups for line in lines] == [
        "testproject.documents.tasks.process_vectorization_only_task"
    ]
    assert "No task has such a name." in client.get(reverse(TASKS), {"q": "<b>"}).text


def test_the_form_has_a_field_for_each_argument_and_shows_the_code(client_who_may):
    client = client_who_may("enqueue_job")

    page = client.get(url()).text

    assert 'name="call-left"' in page
    assert 'name="call-right"' in page
    assert "add.enqueue(left)" in page


def test_a_job_is_enqueued_with_what_was_written(client_who_may):
    client = client_who_may("enqueue_job", "view_job")

    answer = client.post(url(), written(left="40", right="2"))

    job = Job.objects.get()
    assert (job.task, job.args, job.kwargs, job.status) == (ADD, [40], {"right": 2}, QUEUED)
    assert answer.url == reverse("admin:django_jobs_job_change", args=[job.pk])
    assert job.events.get().by == User.objects.get()
    assert "add.enqueue(40, right=2)" in client.get(answer.url).text


def test_options_that_were_chosen_are_the_jobs(client_who_may):
    client = client_who_may("enqueue_job", "view_job")

    client.post(
        url(),
        written(
            queue="vectorization",
            subject="file:42",
            unique="k",
            tags="a, b ,",
            max_retries="3",
            at_front="on",
            is_mine="on",
        ),
    )

    job = Job.objects.get()
    assert (job.queue, job.subject, job.unique_key, job.tags) == ("vectorization", "file:42", "k", ["a", "b"])
    assert (job.max_attempts, job.at_front, job.owner) == (4, True, User.objects.get())


def test_a_job_is_enqueued_for_later(client_who_may):
    client = client_who_may("enqueue_job", "view_job")

    client.post(url(), written(delay="90.5"))
    client.post(url(), written(at="2099-01-31T18:00:00"))

    late, later = Job.objects.order_by("id")
    assert late.status == later.status == SCHEDULED
    assert timedelta(seconds=60) < late.scheduled_for - timezone.now() < timedelta(seconds=91)
    assert later.scheduled_for == datetime(2099, 1, 31, 18, tzinfo=UTC)


def test_who_may_not_see_jobs_stays_on_the_form(client_who_may):
    client = client_who_may("enqueue_job")

    assert client.post(url(), written()).url == url()
    assert Job.objects.count() == 1


def test_the_code_is_shown_before_anything_is_enqueued(client_who_may):
    client = client_who_may("enqueue_job")

    page = client.post(
        url(), written("show", left="40", queue="vectorization", delay="5", max_retries="2")
    ).text

    assert "from tests.tasks import add" in page
    assert "add.using(queue=&#x27;vectorization&#x27;, delay=5.0, retry=Retry(max=2)).enqueue(40)" in page
    assert not Job.objects.exists()
    assert 'value="40"' in page


def test_a_long_call_is_told_in_full_once_it_is_enqueued(client_who_may):
    client = client_who_may("enqueue_job", "view_job", "view_job_arguments")

    page = client.post(url("tests.tasks.log_in"), written(user="o" * 100, password="x"), follow=True)

    [told] = page.context["messages"]
    assert "log_in.enqueue(\n" in str(told)
    assert "o" * 100 in str(told)


def test_secrets_are_masked_in_the_code(client_who_may):
    client = client_who_may("enqueue_job")
    data = written("show", user="op", password="hunter2")

    page = client.post(url("tests.tasks.log_in"), data).text

    assert "log_in.enqueue(&#x27;op&#x27;, &#x27;********&#x27;)" in page


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("left", "many", "Enter a whole number."),
        ("left", "", "This field is required."),
        ("queue", "nowhere", "Select a valid choice."),
        ("delay", "-1", "greater than or equal to 0"),
        ("at", "tomorrow", "Enter a valid date/time."),
        ("max_retries", "-1", "greater than or equal to 0"),
        ("subject", "x" * 256, "at most 255 characters"),
    ],
)
def test_what_is_wrong_is_told_beside_its_field_and_nothing_is_lost(client_who_may, name, value, told):
    client = client_who_may("enqueue_job")

    page = client.post(url(), written(**{"right": "17", "tags": "kept", name: value}))

    form = page.context["options" if name in OPTIONS else "call"]
    assert told in form.errors[name][0]
    assert told in page.text
    assert 'value="17"' in page.text
    assert 'value="kept"' in page.text
    assert not Job.objects.exists()


def test_a_delay_and_a_time_together_are_refused(client_who_may):
    client = client_who_may("enqueue_job")

    page = client.post(url(), written(delay="5", at="2099-01-31T18:00:00"))

    assert "give one of them" in page.context["options"].errors["at"][0]
    assert not Job.objects.exists()


def test_what_the_service_refuses_is_told(client_who_may, settings):
    settings.DJANGO_JOBS = {**settings.DJANGO_JOBS, "MAX_ARGUMENTS_BYTES": 10}
    client = client_who_may("enqueue_job")

    page = client.post(url(), written(left="1234567890123"))

    assert "bytes of JSON" in page.text
    assert 'value="1234567890123"' in page.text
    assert not Job.objects.exists()


def test_a_unique_key_that_is_held_leads_to_its_job(client_who_may, job_factory):
    client = client_who_may("enqueue_job", "view_job")
    holder = job_factory(unique_key="k")

    answer = client.post(url(), written(unique="k"))

    assert answer.url == reverse("admin:django_jobs_job_change", args=[holder.pk])
    assert Job.objects.count() == 1


def test_any_arguments_are_written_as_json(client_who_may):
    client = client_who_may("enqueue_job")

    client.post(url("tests.tasks.echo"), written(args='[1, "<b>"]', kwargs='{"x": [1]}'))

    job = Job.objects.get()
    assert (job.args, job.kwargs) == ([1, "<b>"], {"x": [1]})


def test_what_is_written_is_escaped(client_who_may):
    client = client_who_may("enqueue_job")

    page = client.post(
        url("tests.tasks.echo"), written("show", args='["<b>"]', subject="<b>", kwargs="<b>")
    ).text

    assert "<b>" not in page


@pytest.mark.parametrize("task", ["os.system", "tests.tasks.undeclared", "no.such"])
def test_what_is_no_task_is_not_found(client_who_may, task):
    client = client_who_may("enqueue_job")

    assert client.get(url(task)).status_code == 404
    assert client.post(url(task), written()).status_code == 404


def test_enqueueing_takes_its_permission(client_who_may):
    client = client_who_may("view_job", "requeue_job", "edit_job_arguments")

    assert client.get(reverse(TASKS)).status_code == 403
    assert client.get(url()).status_code == 403
    assert client.post(url(), written()).status_code == 403
    assert not Job.objects.exists()


def test_nothing_is_enqueued_while_all_is_read_only(client_who_may, settings):
    settings.DJANGO_JOBS = {**settings.DJANGO_JOBS, "READ_ONLY": True}
    client = client_who_may("enqueue_job")

    assert client.post(url(), written()).status_code == 403
    assert not Job.objects.exists()
    assert 'name="enqueue"' not in client.get(url()).text
