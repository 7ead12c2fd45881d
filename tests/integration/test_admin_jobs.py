import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse

from django_jobs.models import Attempt, Job
from django_jobs.states import CANCELED, FAILED, FINISHED, QUEUED, STARTED
from tests.conftest import fresh

JOBS = "admin:django_jobs_job_changelist"
JOB = "admin:django_jobs_job_change"
ATTEMPTS = "admin:django_jobs_attempt_changelist"

pytestmark = pytest.mark.usefixtures("valkey")


@pytest.fixture
def client_who_may(db: None, client: Client):
    """A logged-in member of staff with just the given permissions on django_jobs."""

    def log_in(*codenames: str) -> Client:
        user = User.objects.create_user("op", is_staff=True)
        user.user_permissions.set(
            Permission.objects.filter(content_type__app_label="django_jobs", codename__in=codenames)
        )
        client.force_login(user)
        return client

    return log_in


def act(client: Client, action: str, *jobs: Job):
    data = {"action": action, "_selected_action": [str(job.pk) for job in jobs]}
    return client.post(reverse(JOBS), data, follow=True)


def test_list_shows_the_call_and_how_far_it_is(client_who_may, job_factory):
    client = client_who_may("view_job")
    job_factory(args=[1], kwargs={"right": 2}, progress=40, subject="file:42")

    page = client.get(reverse(JOBS)).text

    assert "add(1, right=2)" in page
    assert "40 %" in page
    assert "file:42" in page


def test_list_of_no_jobs_is_a_page(client_who_may):
    client = client_who_may("view_job")

    assert "0 jobs" in client.get(reverse(JOBS)).text


def test_list_costs_the_same_number_of_queries_for_one_job_and_for_fifty(
    client_who_may, job_factory, django_assert_max_num_queries
):
    client = client_who_may("view_job")
    for _ in range(50):
        job_factory()

    with django_assert_max_num_queries(8):
        client.get(reverse(JOBS))


@pytest.mark.parametrize("page", [JOBS, ATTEMPTS])
def test_lists_are_closed_to_staff_without_permission(client_who_may, page):
    client = client_who_may()

    assert client.get(reverse(page)).status_code == 403


def test_detail_is_closed_to_staff_without_permission(client_who_may, job_factory):
    job = job_factory()

    assert client_who_may().get(reverse(JOB, args=[job.pk])).status_code == 403


def test_detail_shows_stages_attempts_traceback_and_log_escaped(client_who_may, job_factory):
    client = client_who_may("view_job", "view_attempt")
    stages = {"chunking": {"status": "processing", "progress": 50}}
    job = job_factory(status=FAILED, stages=stages, error_type="ValueError", error_message="<b>broken</b>")
    job.attempts.create(
        number=1,
        claim_id=job.pk,
        worker_name="w1",
        started_at=job.created_at,
        outcome=Attempt.Outcome.FAILED,
        traceback='File "tasks.py", line 1',
        log="<script>alert(1)</script>",
    )

    page = client.get(reverse(JOB, args=[job.pk])).text

    assert "chunking" in page
    assert "50 %" in page
    assert "File &quot;tasks.py&quot;, line 1" in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<b>broken" not in page


def test_nothing_can_be_edited_added_or_deleted(client_who_may, job_factory):
    client = client_who_may("view_job", "add_job", "change_job", "delete_job")
    job = job_factory(args=[1])

    client.post(reverse(JOB, args=[job.pk]), {"args": "[2]"})

    assert fresh(job).args == [1]
    assert client.get(reverse("admin:django_jobs_job_add")).status_code == 403
    assert client.post(reverse("admin:django_jobs_job_delete", args=[job.pk])).status_code == 403


def test_requeue_action_requeues_and_says_how_many(client_who_may, job_factory):
    client = client_who_may("view_job", "requeue_job")
    failed, running = job_factory(status=FAILED), job_factory(status=STARTED)

    page = act(client, "requeue", failed, running).text

    assert fresh(failed).status == QUEUED
    assert "1 job requeued." in page
    assert f"Job {running.pk} is started; only jobs that have ended can be requeued." in page


def test_cancel_action_cancels_and_says_how_many(client_who_may, job_factory):
    client = client_who_may("view_job", "cancel_job")
    waiting, ended = job_factory(), job_factory(status=FINISHED)

    page = act(client, "cancel", waiting, ended).text

    assert fresh(waiting).status == CANCELED
    assert fresh(ended).status == FINISHED
    assert "1 job canceled." in page
    assert "1 had ended already." in page
    assert waiting.events.get().by.username == "op"


@pytest.mark.parametrize("action", ["requeue", "cancel"])
def test_actions_are_not_offered_to_and_not_obeyed_for_a_user_who_may_only_look(
    client_who_may, job_factory, action
):
    client = client_who_may("view_job")
    job = job_factory(status=FAILED if action == "requeue" else QUEUED)

    page = act(client, action, job).text

    assert fresh(job).status == job.status
    assert f'value="{action}"' not in page


@pytest.mark.parametrize("term", ["id", "file:42", "tests.tasks.add"])
def test_search_finds_by_id_subject_and_task(client_who_may, job_factory, term):
    client = client_who_may("view_job")
    sought = job_factory(subject="file:42")
    job_factory(subject="file:43", task="tests.tasks.fail")

    found = (
        client.get(reverse(JOBS), {"q": str(sought.pk) if term == "id" else term}).context["cl"].result_list
    )

    assert [job.pk for job in found] == [sought.pk]


def test_filter_by_queue_lists_the_declared_queues(client_who_may, job_factory):
    client = client_who_may("view_job")
    sought = job_factory(queue="vectorization")
    job_factory(queue="kg_extraction")

    response = client.get(reverse(JOBS), {"queue": "vectorization"})

    assert [job.pk for job in response.context["cl"].result_list] == [sought.pk]
    assert "?queue=kg_extraction" in response.text


def test_attempts_are_listed_with_their_task(client_who_may, job_factory):
    client = client_who_may("view_attempt")
    job = job_factory(status=FINISHED)
    job.attempts.create(
        number=1,
        claim_id=job.pk,
        worker_name="w1",
        started_at=job.created_at,
        outcome=Attempt.Outcome.FINISHED,
    )

    page = client.get(reverse(ATTEMPTS)).text

    assert "add()" in page
    assert "finished" in page
