"""Reports on their way from a worker's children to the database: none is lost, whatever that does."""

import json
import threading
from dataclasses import replace
from uuid import UUID, uuid4

import pytest
from django.db import IntegrityError, OperationalError, connection

from django_jobs import batches, outbox, reports, spool
from django_jobs.batches import Report
from django_jobs.models import Job
from django_jobs.models.workers import installation_id
from django_jobs.outbox import Outbox
from django_jobs.outcomes import Outcome
from django_jobs.states import FAILED, FINISHED, STARTED
from tests.conftest import claim, fresh, make_worker, wait_until
from tests.threads import holding_locks

pytestmark = pytest.mark.django_db(transaction=True)

DONE = {"progress": 100, "progress_message": "", "stage": "", "stages": {}, "stage_names": []}


@pytest.fixture(autouse=True)
def folder(settings, tmp_path):
    settings.DJANGO_JOBS = {**settings.DJANGO_JOBS, "SPOOL_DIRECTORY": tmp_path / "spool"}
    return tmp_path / "spool" / "reports"


@pytest.fixture
def worker(db):
    installation_id()
    return make_worker()


@pytest.fixture
def box(worker):
    return Outbox(worker.pk)


@pytest.fixture
def end(job_factory, worker):
    """A job that has run, and the report of its end."""

    def run(result=1, **told):
        job = claim(job_factory(), worker=worker)
        outcome = replace(Outcome.finished(result=result, progress=DONE), **told)
        document = reports.document(job, outcome, "w1")
        status, seconds = document["status"], document["ran_seconds"]
        return job, Report(job.pk, job.queue, document["outcome"], status, seconds, json.dumps(document))

    return run


@pytest.fixture
def away(monkeypatch):
    """Have the database be away while this is set."""
    is_away = threading.Event()

    def while_there(function):
        def call(*args, **kwargs):
            if is_away.is_set():
                raise OperationalError("the database is away")
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(batches, "record", while_there(batches.record))
    monkeypatch.setattr(reports, "deliver", while_there(reports.deliver))
    return is_away


def kept_in(folder):
    return sorted(path.name.split(".")[1] for path in folder.glob("*.json"))


def kept_name(job):
    return str(reports.document(job, Outcome.finished(), "")["job"])


def recorded(done):
    return [report.job_id for report in done]


def test_an_empty_box_asks_for_nothing(box, django_assert_num_queries):
    with django_assert_num_queries(0):
        assert (box.flush(), box.seconds_to_wait(), len(box)) == ([], None, 0)


def test_what_is_put_is_recorded_at_once_and_only_once(box, end):
    job, report = end()

    box.put(report)

    assert (len(box), box.seconds_to_wait()) == (1, 0)
    assert box.flush() == [report]
    assert (len(box), box.seconds_to_wait(), box.flush()) == (0, None, [])
    assert (fresh(job).status, job.attempts.count()) == (FINISHED, 1)


def test_a_report_that_may_wait_is_recorded_with_the_next_that_may_not(box, end):
    (first, first_report), (second, second_report) = end(1), end(2)

    box.put(first_report, within_seconds=60)

    assert 0 < box.seconds_to_wait() <= 60
    assert (box.flush(), fresh(first).status) == ([], STARTED)

    box.put(second_report)

    assert box.seconds_to_wait() == 0
    assert set(recorded(box.flush())) == {first.pk, second.pk}
    assert (len(box), box.seconds_to_wait()) == (0, None)
    _, third_report = end(3)
    box.put(third_report, within_seconds=60)
    assert box.seconds_to_wait() > 0


def test_a_report_that_may_wait_is_recorded_when_its_time_is_over(box, end):
    job, report = end()

    box.put(report, within_seconds=0.05)

    wait_until(lambda: recorded(box.flush()) == [job.pk])
    assert fresh(job).status == FINISHED


def test_reports_wait_in_files_while_the_database_is_away_and_not_after(box, end, away, folder, monkeypatch):
    ended = [end(number) for number in range(3)]
    jobs = [job for job, _ in ended]
    for _, report in ended:
        box.put(report)
    away.set()

    assert box.flush() == []

    assert kept_in(folder) == sorted(map(kept_name, jobs))
    assert 0 < box.seconds_to_wait() <= reports.RETRY_EVERY_SECONDS
    away.clear()
    assert box.flush() == []  # It rests.
    monkeypatch.setattr(box, "_resting_until", 0)
    assert set(recorded(box.flush())) == {job.pk for job in jobs}
    assert (kept_in(folder), [fresh(job).result for job in jobs]) == ([], [0, 1, 2])


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has no connection to lose.")
def test_a_connection_that_was_lost_loses_no_report(box, end, folder):
    job, report = end()
    box.put(report)
    connection.connection.close()

    assert box.flush() == []
    assert kept_in(folder) == [kept_name(job)]

    box._resting_until = 0
    assert box.flush() == [report]
    assert (fresh(job).status, kept_in(folder)) == (FINISHED, [])


def test_what_a_box_kept_the_next_worker_records_if_its_process_ends(box, end, away, folder, monkeypatch):
    job, report = end({"a": [None, "ü"]}, log="a line", ran_seconds=1)
    box.put(report)
    away.set()
    box.flush()
    away.clear()
    monkeypatch.setattr(spool, "_is_of_living_process", lambda path: False)

    assert reports.deliver_kept() == 1

    assert (fresh(job).status, fresh(job).result) == (FINISHED, {"a": [None, "ü"]})
    assert (job.attempts.get().log, kept_in(folder)) == ("a line", [])


def test_what_is_recorded_already_from_its_file_is_not_recorded_again(box, end, away, monkeypatch, folder):
    job, report = end()
    box.put(report)
    away.set()
    box.flush()
    away.clear()
    monkeypatch.setattr(spool, "_is_of_living_process", lambda path: False)
    reports.deliver_kept()

    box._resting_until = 0
    assert box.flush() == [report]

    assert (job.attempts.count(), job.events.count(), kept_in(folder)) == (1, 0, [])


def test_only_what_has_waited_for_long_is_kept(box, end, folder, monkeypatch):
    (old, old_report), (_, new_report) = end(), end()
    box.put(old_report)
    monkeypatch.setattr(reports, "KEEP_AFTER_SECONDS", 60)
    box.keep_old()
    assert kept_in(folder) == []
    report, since = box._waiting[old.pk]
    box._waiting[old.pk] = report, since - 61
    box.put(new_report)

    box.keep_old()

    assert kept_in(folder) == [kept_name(old)]


def test_what_hangs_another_thread_keeps_and_it_is_dropped_when_recorded(box, end, folder, monkeypatch):
    job, report = end()
    box.put(report)
    monkeypatch.setattr(reports, "KEEP_AFTER_SECONDS", -1)
    kept_meanwhile = []
    record = batches.record

    def hang(*args):
        thread = threading.Thread(target=box.keep_old)
        thread.start()
        thread.join()
        kept_meanwhile.extend(kept_in(folder))
        return record(*args)

    monkeypatch.setattr(batches, "record", hang)

    assert box.flush() == [report]

    assert (kept_meanwhile, kept_in(folder)) == ([kept_name(job)], [])


def test_another_thread_may_keep_all_the_time_and_leaves_no_file(box, end, folder, monkeypatch):
    monkeypatch.setattr(reports, "KEEP_AFTER_SECONDS", -1)
    ended = [end(number) for number in range(30)]
    is_over, errors = threading.Event(), []

    def keep():
        try:
            while not is_over.is_set():
                box.keep_old()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=keep)
    thread.start()
    done = []
    for _, report in ended:
        box.put(report)
        done += box.flush()
    is_over.set()
    thread.join()

    assert recorded(done) == [job.pk for job, _ in ended]
    assert (errors, kept_in(folder), len(box)) == ([], [], 0)


@pytest.mark.parametrize("outcome", [Outcome.canceled(), Outcome.elsewhere(60)])
def test_what_was_done_before_the_database_went_away_is_told_as_done(
    box, end, monkeypatch, worker, job_factory, outcome
):
    """Else its worker holds it for ever."""
    reports_of = []
    for _ in range(3):
        job = claim(job_factory(), worker=worker)
        document = reports.document(job, outcome, "w1")
        reports_of.append(Report(job.pk, job.queue, outcome.kind, "", 0, json.dumps(document)))
        box.put(reports_of[-1])
    deliver, delivered = reports.deliver, []

    def be_away_after_the_first(told, **options):
        if len(delivered) == 1:
            delivered.append(None)
            raise OperationalError("the database is away")
        delivered.append(told)
        return deliver(told, **options)

    monkeypatch.setattr(reports, "deliver", be_away_after_the_first)

    done = box.flush()
    assert len(done) == 1
    box._resting_until = box._locked_until = 0
    done += box.flush()

    assert set(recorded(done)) == {report.job_id for report in reports_of}
    assert len(box) == 0


@pytest.mark.parametrize("error", [IntegrityError("odd"), OverflowError("odd")])
def test_what_the_database_refuses_in_any_form_fails_and_keeps_no_other_from_being_recorded(
    box, end, monkeypatch, error
):
    (odd, odd_report), (job, report) = end(), end()
    box.put(odd_report)
    box.put(report)
    deliver = reports.deliver

    def refuse_odd(told, **options):
        if told == json.loads(odd_report.document):
            raise error
        return deliver(told, **options)

    def refuse(*args):
        raise error

    monkeypatch.setattr(reports, "deliver", refuse_odd)
    monkeypatch.setattr(batches, "record", refuse)

    done = box.flush()

    assert set(recorded(done)) == {odd.pk, job.pk}
    assert (fresh(job).status, len(box)) == (FINISHED, 0)
    assert (fresh(odd).status, fresh(odd).error_type) == (FAILED, "NotRecorded")  # Else it ran for ever.


@pytest.mark.parametrize("limit", ["MOST_AT_ONCE", "MOST_CHARACTERS_AT_ONCE"])
def test_many_are_recorded_in_several_batches_in_their_order(box, end, monkeypatch, limit):
    sizes, record = [], batches.record

    def counted(together, worker_id):
        sizes.append([report.job_id for report in together])
        return record(together, worker_id)

    monkeypatch.setattr(batches, "record", counted)
    ended = [end() for _ in range(7)]
    size = max(len(report.document) for _, report in ended)
    monkeypatch.setattr(outbox, limit, 3 if limit == "MOST_AT_ONCE" else 3 * size)
    for _, report in ended:
        box.put(report)

    done = box.flush()

    assert [len(each) for each in sizes] == [3, 3, 1]
    assert [job_id for each in sizes for job_id in each] == [job.pk for job, _ in ended]
    assert len(done) == 7


def test_one_that_is_larger_than_a_batch_is_recorded_alone(box, end, monkeypatch):
    monkeypatch.setattr(outbox, "MOST_CHARACTERS_AT_ONCE", 10)
    ended = [end() for _ in range(2)]
    for _, report in ended:
        box.put(report)

    assert recorded(box.flush()) == [job.pk for job, _ in ended]


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite locks no rows.")
def test_what_is_locked_waits_a_little_and_what_is_put_meanwhile_does_not(box, end, folder, monkeypatch):
    monkeypatch.setattr(outbox, "LOOK_AT_LOCKED_EVERY_SECONDS", 60)
    (locked, locked_report), (free, free_report) = end(), end()
    box.put(locked_report)

    with holding_locks(lambda: list(Job.objects.select_for_update().filter(pk=locked.pk))):
        assert box.flush() == []
        assert kept_in(folder) == [kept_name(locked)]  # Soon nothing else shows that it has run.
        assert 0 < box.seconds_to_wait() <= outbox.LOOK_AT_LOCKED_EVERY_SECONDS
        box.put(free_report)
        assert box.seconds_to_wait() == 0
        assert box.flush() == [free_report]

    assert [fresh(job).status for job in (locked, free)] == [STARTED, FINISHED]
    box._locked_until = 0
    assert box.flush() == [locked_report]


@pytest.fixture
def locked(monkeypatch):
    """The jobs whose rows another transaction holds."""
    ids, record, deliver = set(), batches.record, reports.deliver

    def record_free(together, worker_id):
        return record([report for report in together if report.job_id not in ids], worker_id)

    def deliver_free(told, **options):
        return UUID(told["job"]) not in ids and deliver(told, **options)

    monkeypatch.setattr(batches, "record", record_free)
    monkeypatch.setattr(reports, "deliver", deliver_free)
    return ids


def test_what_is_told_alone_waits_for_nothing_that_is_locked_and_needs_no_file(
    box, end, job_factory, worker, folder, locked
):
    held, held_report = end()
    locked.add(held.pk)
    box.put(held_report)
    assert (box.flush(), box.unkept) == ([], 0)

    job = claim(job_factory(), worker=worker)
    document = reports.document(job, Outcome.elsewhere(60), "w1")
    alone = Report(job.pk, job.queue, document["outcome"], "", 0, json.dumps(document))
    box.put(alone)

    assert (box.unkept, box.seconds_to_wait()) == (1, 0)
    assert box.flush() == [alone]
    assert kept_in(folder) == [kept_name(held)]
    locked.clear()
    box._locked_until = 0
    assert box.flush() == [held_report]
    assert (len(box), kept_in(folder)) == (0, [])


def test_an_error_that_nobody_knows_keeps_no_report_from_being_tried_again(box, end, monkeypatch, locked):
    (_, first), (_, second) = end(), end()
    locked |= {first.job_id, second.job_id}

    def fail(*args, **options):
        raise RuntimeError("odd")

    monkeypatch.setattr(reports, "deliver", fail)
    monkeypatch.setattr(reports, "give_up", fail)
    box.put(first)
    box.put(second)

    with pytest.raises(RuntimeError):
        box.flush()

    assert (len(box), box.seconds_to_wait()) == (2, 0)


def test_what_no_disk_takes_is_tried_as_often_as_its_lock(box, end, monkeypatch, locked):
    refused = []
    monkeypatch.setattr(reports, "keep", refused.append)
    monkeypatch.setattr(outbox, "LOOK_AT_LOCKED_EVERY_SECONDS", 60)
    held, held_report = end()
    locked.add(held.pk)
    box.put(held_report)
    box.flush()

    for _ in range(5):
        _, report = end()
        box.put(report)
        assert box.flush() == [report]

    assert (len(refused), box.unkept) == (1, 1)


def test_a_report_of_a_job_that_is_not_there_needs_no_file(box, end, folder):
    _, report = end()
    unknown = {**json.loads(report.document), "job": uuid4().hex}
    box.put(replace(report, job_id=uuid4(), document=json.dumps(unknown)))

    assert len(box.flush()) == 1
    assert not folder.exists() or kept_in(folder) == []
