"""What holds for all pages of errors, queues, workers, operations and enqueueing."""

import re

import pytest
from django.contrib.auth.models import Permission
from django.db.models.functions import Now
from django.urls import reverse
from django.utils import timezone

from django_jobs.models import Attempt, ErrorGroup, Operation
from django_jobs.states import FAILED, STARTED
from tests import tasks
from tests.conftest import make_worker

pytestmark = pytest.mark.usefixtures("valkey")

PERMISSIONS = {
    "errorgroup_changelist": {"view_errorgroup"},
    "errorgroup_change": {"view_errorgroup"},
    "error_requeue": {"view_errorgroup", "bulk_job", "requeue_job"},
    "queues": {"view_queue"},
    "queue": {"view_queue"},
    "queue_empty": {"view_queue", "manage_queue"},
    "queue_move": {"view_queue", "bulk_job", "move_job"},
    "workers": {"view_worker"},
    "worker_stop": {"view_worker", "manage_worker"},
    "worker_stop_job": {"view_worker", "view_job", "stop_job"},
    "operation_changelist": {"view_operation"},
    "operation_change": {"view_operation"},
    "enqueue": {"enqueue_job"},
    "enqueue_task": {"enqueue_job"},
}
"""Which permissions each page takes."""
NAMES = [*PERMISSIONS]
PARTS = {
    **{name: {"view_job"} for name in ("dashboard_changelist", "dashboard_region")},
    **{name: {"view_job"} for name in ("job_changelist", "job_rows")},
    **{name: {"view_job"} for name in ("job_change", "job_head", "job_past")},
    "job_edit": {"view_job", "view_job_arguments", "edit_job_arguments", "requeue_job"},
    "errors_region": {"view_errorgroup"},
    "error_region": {"view_errorgroup"},
    "queues_region": {"view_queue"},
    "queue_region": {"view_queue"},
    "workers_region": {"view_worker"},
    "operations_region": {"view_operation"},
    "operation_region": {"view_operation"},
    "attempt_changelist": {"view_attempt", "view_job"},
    "attempt_change": {"view_attempt", "view_job"},
}
"""The same of what has tests of its own, and of the regions that pages fetch."""
TAKEN = PERMISSIONS | PARTS


@pytest.fixture
def urls(job_factory):
    """The address of each page, with something on it."""
    now = timezone.now()
    group = ErrorGroup.objects.create(
        fingerprint="f" * 32, error_type="E", first_seen=now, last_seen=now, count=1
    )
    failed = job_factory(status=FAILED, fingerprint=group.pk)
    attempt = Attempt.objects.create(
        job=failed, number=1, claim_id=failed.pk, outcome="failed", started_at=now, finished_at=now
    )
    worker = make_worker(queues=["file_processing"])
    job = job_factory(status=STARTED, worker=worker)
    operation = Operation.objects.create(verb="requeue", search="status:failed", started_at=Now())
    arguments = {
        **{name: [group.pk] for name in ("errorgroup_change", "error_requeue", "error_region")},
        **{name: ["file_5Fprocessing"] for name in ("queue", "queue_empty", "queue_move", "queue_region")},
        **{name: [failed.pk] for name in ("job_change", "job_head", "job_past", "job_edit")},
        "attempt_change": [attempt.pk],
        "worker_stop": [worker.pk],
        "worker_stop_job": [job.pk],
        "operation_change": [operation.pk],
        "operation_region": [operation.pk],
        "enqueue_task": [tasks.add.name],
    }
    return {name: reverse(f"admin:django_jobs_{name}", args=arguments.get(name)) for name in TAKEN}


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


@pytest.mark.parametrize("name", TAKEN)
def test_who_has_just_the_permissions_that_a_page_takes_sees_it(client_who_may, urls, name):
    assert client_who_may(*TAKEN[name]).get(urls[name]).status_code == 200


@pytest.mark.parametrize("lacking", sorted(set().union(*TAKEN.values())))
def test_who_has_all_permissions_but_one_sees_just_the_pages_that_do_not_take_it(
    client_who_may, urls, lacking
):
    ours = Permission.objects.filter(content_type__app_label="django_jobs")
    client = client_who_may(*ours.exclude(codename=lacking).values_list("codename", flat=True))

    closed = {name for name in TAKEN if client.get(urls[name]).status_code == 403}

    assert closed == {name for name, taken in TAKEN.items() if lacking in taken}


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
