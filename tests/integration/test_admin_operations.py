"""The pages of the operations."""

from uuid import uuid4

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.db import connection
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from uuid6 import uuid7

from django_jobs import operations
from django_jobs.models import Operation
from django_jobs.states import FAILED
from tests.conftest import fresh

pytestmark = pytest.mark.usefixtures("valkey")

OPERATIONS = "admin:django_jobs_operation_changelist"
OPERATION = "admin:django_jobs_operation_change"


def page(client, operation):
    return client.get(reverse(OPERATION, args=[operation.pk]))


def abort(operation):
    return reverse("admin:django_jobs_operation_abort", args=[operation.pk])


def running(**values):
    values = {"verb": "requeue", "search": "status:failed", "state": "running", "matched": 200, **values}
    return Operation.objects.create(started_at=Now(), **values)


def test_an_operation_tells_who_asked_for_what_and_what_it_did(client_who_may, job_factory):
    client = client_who_may("view_operation", "view_job")
    operation = running(
        by=User.objects.get(),
        search="queue:mail status:failed",
        done=50,
        refused={"is finished": 40, "unique key held": 10},
    )

    for text in (page(client, operation).text, client.get(reverse(OPERATIONS)).text):
        assert "queue:mail status:failed" in text
        assert "op" in text
        assert "50 %" in text
    text = page(client, operation).text
    assert "is finished" in text
    assert "its unique key is held" in text
    assert "q=queue%3Amail+status%3Afailed" in text


def test_what_made_an_operation_fail_is_masked(client_who_may):
    client = client_who_may("view_operation")
    operation = running(state="failed", finished_at=Now(), error="ValueError: password=hunter2")

    listed = client.get(reverse("admin:django_jobs_operation_changelist")).text

    for text in (listed, page(client, operation).text):
        assert "ValueError: password=" in text
        assert "hunter2" not in text


def test_an_operation_from_its_begin_to_its_end(client_who_may, job_factory):
    client = client_who_may("view_operation", "bulk_job")
    for _ in range(3):
        job_factory(status=FAILED)
    operation = operations.start("requeue", "status:failed")
    assert "waiting" in page(client, operation).text
    assert "data-jobs-final" not in page(client, operation).text

    while operations.run_once():
        pass

    text = page(client, operation).text
    assert "100 %" in text
    assert "done" in text
    assert "data-jobs-final" in text
    assert abort(operation) not in text
    assert page(client, operation).context["row"].done == "3"


def test_who_started_an_operation_is_told_after_that_user_is_gone(client_who_may):
    client = client_who_may("view_operation")
    operation = running(options={"by": "alice"})

    assert "alice" in page(client, operation).text


def test_what_was_not_counted_before_the_first_job_will_not_be_later(client_who_may):
    client = client_who_may("view_operation")
    waiting = Operation.objects.create(verb="requeue", search="status:failed")
    done = running(state="done", matched=None, finished_at=Now())

    assert "not counted yet" in page(client, waiting).text
    assert "not counted" in page(client, done).text
    assert "not counted yet" not in page(client, done).text


def test_what_an_operation_was_told_is_shown(client_who_may):
    client = client_who_may("view_operation")
    operation = running(verb="move", options={"queue": "vectorization"})

    assert "to the queue vectorization" in page(client, operation).text


def test_an_operation_going_on_is_looked_at_every_two_seconds(client_who_may):
    client = client_who_may("view_operation")
    operation = running()
    assert 'data-jobs-interval="2"' in page(client, operation).text
    assert 'data-jobs-interval="2"' in client.get(reverse(OPERATIONS)).text

    client.get(reverse(OPERATIONS), {"refresh": "0"})
    assert 'data-jobs-interval="2"' not in page(client, operation).text

    Operation.objects.update(finished_at=Now(), state="done")
    client.get(reverse(OPERATIONS), {"refresh": "5"})
    assert 'data-jobs-interval="2"' not in page(client, operation).text


def test_abort_ends_an_operation_and_leaves_a_trace(client_who_may, job_factory):
    client = client_who_may("view_operation", "bulk_job")
    operation = running(by=User.objects.get())
    assert abort(operation) in page(client, operation).text

    answer = client.post(abort(operation), follow=True)

    assert fresh(operation).abort_requested_at
    assert "It ends after the jobs in hand." in answer.text
    assert abort(operation) not in answer.text
    assert LogEntry.objects.get().object_id == str(operation.pk)


def test_aborting_what_has_ended_is_told(client_who_may):
    client = client_who_may("view_operation", "bulk_job")
    operation = running(by=User.objects.get(), state="done", finished_at=Now())

    assert "It has ended already" in client.post(abort(operation), follow=True).text


@pytest.mark.parametrize("lacking", ["view_operation", "bulk_job"])
def test_aborting_takes_both_permissions(client_who_may, lacking):
    client = client_who_may(*{"view_operation", "bulk_job"} - {lacking})
    operation = running(by=User.objects.get())

    assert client.post(abort(operation)).status_code == 403

    assert fresh(operation).abort_requested_at is None
    if lacking == "bulk_job":
        assert abort(operation) not in page(client, operation).text


@pytest.mark.parametrize("may", [False, True])
def test_aborting_what_somebody_else_started_takes_one_permission_more(client_who_may, may):
    client = client_who_may("view_operation", "bulk_job", *(["abort_operation"] if may else []))
    operation = running(by=User.objects.create_user("else"))
    assert (abort(operation) in page(client, operation).text) == may

    assert client.post(abort(operation)).status_code == (302 if may else 403)

    assert bool(fresh(operation).abort_requested_at) == may


def test_nothing_is_aborted_while_all_is_read_only(client_who_may, settings):
    settings.DJANGO_JOBS = {**settings.DJANGO_JOBS, "READ_ONLY": True}
    client = client_who_may("view_operation", "bulk_job")
    operation = running(by=User.objects.get())

    assert client.post(abort(operation)).status_code == 403

    assert fresh(operation).abort_requested_at is None
    assert abort(operation) not in page(client, operation).text


def test_aborting_is_done_by_post_alone(client_who_may):
    client = client_who_may("view_operation", "bulk_job")

    assert client.get(abort(running(by=User.objects.get()))).status_code == 405


def test_what_operations_hold_is_escaped(client_who_may):
    client = client_who_may("view_operation", "view_job")
    operation = running(
        search="<b>s",
        options={"by": "<b>u", "reason": "<b>r", "queue": "<b>q"},
        refused={"<b>why": 1},
        error="<b>e",
    )

    for text in (page(client, operation).text, client.get(reverse(OPERATIONS)).text):
        assert "<b>" not in text
        assert "&lt;b&gt;s" in text


@pytest.mark.parametrize("name", ["changelist", "region", "change", "operation_region"])
def test_pages_of_operations_are_closed_to_staff_without_permission(client_who_may, name):
    client = client_who_may("view_job", "bulk_job")
    operation = running()
    urls = {
        "changelist": reverse(OPERATIONS),
        "region": reverse("admin:django_jobs_operations_region"),
        "change": reverse(OPERATION, args=[operation.pk]),
        "operation_region": reverse("admin:django_jobs_operation_region", args=[operation.pk]),
    }

    assert client.get(urls[name]).status_code == 403


@pytest.mark.parametrize("key", [uuid4(), "x"])
def test_an_operation_that_is_gone_is_not_found(client_who_may, key):
    client = client_who_may("view_operation")

    assert client.get(reverse(OPERATION, args=[key])).status_code == 404


def test_older_operations_are_on_further_pages(client_who_may):
    client = client_who_may("view_operation")
    Operation.objects.bulk_create(
        Operation(id=uuid7(), verb="requeue", search=f"tag:t{number:02}") for number in range(60)
    )

    first = client.get(reverse(OPERATIONS))
    second = client.get(first.context["older_url"])

    shown = [row.search for each in (first, second) for row in each.context["rows"]]
    assert shown == [f"tag:t{number:02}" for number in reversed(range(60))]
    assert second.context["older_url"] == ""
    assert len(client.get(reverse(OPERATIONS), {"before": "x"}).context["rows"]) == 50


def test_regions_are_sent_once_and_are_the_same_as_on_their_page(client_who_may):
    client = client_who_may("view_operation", "bulk_job")
    operation = running(by=User.objects.get(), state="done", finished_at=Now())

    for address, region in [
        (reverse(OPERATIONS), reverse("admin:django_jobs_operations_region")),
        (
            reverse(OPERATION, args=[operation.pk]),
            reverse("admin:django_jobs_operation_region", args=[operation.pk]),
        ),
    ]:
        answer = client.get(region)
        assert answer.text in client.get(address).text
        assert client.get(region, headers={"if-none-match": answer["ETag"]}).status_code == 304


def test_the_list_costs_the_same_for_one_operation_and_for_fifty(client_who_may):
    client = client_who_may("view_operation")

    def queries():
        with CaptureQueriesContext(connection) as captured:
            client.get(reverse("admin:django_jobs_operations_region"))
        return len(captured)

    running(by=User.objects.get())
    few = queries()
    for _ in range(50):
        running(by=User.objects.get(), matched=None)

    assert queries() == few <= 20
