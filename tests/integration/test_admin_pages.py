"""What holds for all pages of errors, queues, workers, operations and enqueueing."""

import re

import pytest
from django.db.models.functions import Now
from django.urls import reverse
from django.utils import timezone

from django_jobs.models import ErrorGroup, Operation
from django_jobs.states import FAILED, STARTED
from tests import tasks
from tests.conftest import make_worker

pytestmark = pytest.mark.usefixtures("valkey")

NAMES = [
    "errorgroup_changelist",
    "errorgroup_change",
    "error_requeue",
    "queues",
    "queue",
    "queue_empty",
    "queue_move",
    "workers",
    "worker_stop",
    "worker_stop_job",
    "operation_changelist",
    "operation_change",
    "enqueue",
    "enqueue_task",
]


@pytest.fixture
def urls(job_factory):
    """The address of each page, with something on it."""
    now = timezone.now()
    group = ErrorGroup.objects.create(
        fingerprint="f" * 32, error_type="E", first_seen=now, last_seen=now, count=1
    )
    job_factory(status=FAILED, fingerprint=group.pk)
    worker = make_worker(queues=["file_processing"])
    job = job_factory(status=STARTED, worker=worker)
    operation = Operation.objects.create(verb="requeue", search="status:failed", started_at=Now())
    arguments = {
        "errorgroup_change": [group.pk],
        "error_requeue": [group.pk],
        "queue": ["file_5Fprocessing"],
        "queue_empty": ["file_5Fprocessing"],
        "queue_move": ["file_5Fprocessing"],
        "worker_stop": [worker.pk],
        "worker_stop_job": [job.pk],
        "operation_change": [operation.pk],
        "enqueue_task": [tasks.add.name],
    }
    return {name: reverse(f"admin:django_jobs_{name}", args=arguments.get(name)) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_pages_hold_no_script_style_or_handler(admin_client, urls, name):
    page = admin_client.get(urls[name]).text

    assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=", page)


@pytest.mark.parametrize("name", NAMES)
def test_pages_stand_in_the_frame_and_cost_a_bounded_number_of_queries(
    admin_client, urls, name, django_assert_max_num_queries
):
    with django_assert_max_num_queries(28):  # Two of them are the session's and the user's.
        page = admin_client.get(urls[name])

    assert page.status_code == 200
    assert 'class="jobs-strip"' in page.text


@pytest.mark.parametrize("name", NAMES)
def test_pages_ask_who_is_not_logged_in_to_log_in(client, urls, name):
    assert "login" in client.get(urls[name]).url


@pytest.mark.parametrize("name", NAMES)
def test_pages_can_be_chosen_a_refresh_on(admin_client, urls, name):
    assert admin_client.get(urls[name], {"refresh": "15"}).url == urls[name]


def test_forms_without_their_token_are_refused(db, urls, admin_user):
    from django.test import Client

    client = Client(enforce_csrf_checks=True)
    client.force_login(admin_user)

    for name in ("error_requeue", "queue_empty", "worker_stop", "worker_stop_job", "enqueue_task"):
        assert client.post(urls[name]).status_code == 403
