"""A deploy changes the database while workers of before go on, and code of before enqueues."""

import pytest
from django.db import connection

from django_jobs import Retry
from django_jobs.models import Attempt, Job, JobEvent, Worker
from django_jobs.states import FAILED, FINISHED
from tests import tasks

WIDENED = (Job, Attempt, JobEvent, Worker)


@pytest.fixture
def widen():
    """Add a column to our tables, as an additive migration with a default of the database does."""

    def add():
        with connection.cursor() as cursor:
            for model in WIDENED:
                cursor.execute(
                    f"ALTER TABLE {model._meta.db_table} ADD COLUMN later text DEFAULT '' NOT NULL"
                )

    yield add
    with connection.cursor() as cursor:
        for model in WIDENED:
            if any(
                column.name == "later"
                for column in connection.introspection.get_table_description(cursor, model._meta.db_table)
            ):
                cursor.execute(f"ALTER TABLE {model._meta.db_table} DROP COLUMN later")


def test_workers_and_code_of_before_go_on_after_an_additive_migration(start_worker, widen, tmp_path):
    effects, release = tmp_path / "effects", tmp_path / "release"
    worker = start_worker("file_processing", "vectorization")
    running = tasks.hold.enqueue(str(effects), str(release))
    before = tasks.add.using(queue="vectorization", delay=1).enqueue(1)

    widen()
    release.touch()
    after = [tasks.add.enqueue(number) for number in range(3)]
    failing = tasks.fail.using(retry=Retry(max=1)).enqueue("no")

    assert [job.wait(timeout=60).status for job in (running, before, *after)] == [FINISHED] * 5
    assert (failing.wait(timeout=60).status, failing.attempt) == (FAILED, 2)
    assert worker.process.poll() is None
    assert not JobEvent.objects.exists()
