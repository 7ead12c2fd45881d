"""Orders to workers: what is in the row, and what the life signs do with it."""

import pytest
from django.contrib.auth.models import User

from django_jobs import control
from django_jobs.exceptions import NotPossible
from django_jobs.lifesigns import LifeSigns
from django_jobs.models import Worker
from tests.conftest import fresh, make_worker, wait_until

pytestmark = pytest.mark.django_db

NONE, QUIET, STOP = Worker.Order


@pytest.mark.parametrize(
    ("verb", "before", "changed", "after"),
    [
        (control.quiet_worker, NONE, True, QUIET),
        (control.quiet_worker, QUIET, False, QUIET),
        (control.unquiet_worker, QUIET, True, NONE),
        (control.unquiet_worker, NONE, False, NONE),
        (control.stop_worker, NONE, True, STOP),
        (control.stop_worker, QUIET, True, STOP),
        (control.stop_worker, STOP, False, STOP),
    ],
)
def test_an_order_is_in_the_workers_row(verb, before, changed, after):
    worker, other = make_worker(order=before), make_worker(name="w2")

    assert verb(worker) is changed

    assert (worker.order, fresh(worker).order, fresh(other).order) == (after, after, NONE)


@pytest.mark.parametrize("verb", [control.quiet_worker, control.unquiet_worker])
def test_who_was_told_to_stop_is_told_nothing_else(verb):
    worker = make_worker(order=STOP)

    with pytest.raises(NotPossible, match=r"^Worker w1 was told to stop"):
        verb(worker)

    assert fresh(worker).order == STOP


@pytest.mark.parametrize("verb", [control.quiet_worker, control.unquiet_worker, control.stop_worker])
def test_a_worker_that_is_gone_is_told_to_be_gone(verb):
    worker = make_worker()
    Worker.objects.all().delete()

    with pytest.raises(NotPossible, match=r"^There is no worker w1 any more"):
        verb(worker)


def test_what_is_no_worker_is_refused_as_such():
    with pytest.raises(TypeError, match="'w1' is no worker"):
        control.quiet_worker("w1")


def test_the_log_names_who_ordered_it(caplog):
    caplog.set_level("INFO")
    worker = make_worker()

    control.quiet_worker(worker, by=User.objects.create_superuser("root"))
    control.unquiet_worker(worker)

    assert "Worker w1 is told: quiet, by root." in caplog.text
    assert "Worker w1 is told: unquiet, by trusted code." in caplog.text


@pytest.mark.django_db(transaction=True)
def test_life_signs_bring_back_the_order_and_tell_memory_and_cpu(settings):
    settings.DJANGO_JOBS = {"LEASE_SECONDS": 1.5}
    told = []
    signs = LifeSigns(
        "w1",
        engine="rq",
        queues=["file_processing"],
        witness=lambda worker_id: None,
        on_order=told.append,
        holds=lambda: True,
        on_fence=lambda: None,
    )
    signs.start()

    try:
        first = fresh(signs.worker)
        assert (first.memory_bytes > 1_000_000, first.cpu_percent) == (True, None)
        wait_until(lambda: told)
        assert set(told) == {NONE}
        control.quiet_worker(fresh(signs.worker))
        wait_until(lambda: told[-1] == QUIET)
        assert wait_until(lambda: fresh(signs.worker).cpu_percent is not None)

        Worker.objects.all().delete()
        wait_until(lambda: Worker.objects.exists())
        assert fresh(signs.worker).order == QUIET, "somebody deleted the row; the order stays"
    finally:
        signs.stop()
