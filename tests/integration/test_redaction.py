"""What is stored of a job that tells a secret, and what its pages show."""

import zlib
from base64 import b64encode
from contextlib import suppress

import django_rq
import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.urls import reverse
from django.utils import timezone

from django_jobs import control, observer, operations
from django_jobs.engines.rq import plain
from django_jobs.models import Attempt, Job
from django_jobs.outcomes import fail_untold
from django_jobs.redaction import MASK
from django_jobs.searching import parse
from django_jobs.states import FAILED, STARTED
from tests.conftest import execute, fresh
from tests.integration.test_observer import FRAME, HEAD, row_of, seen_of
from tests.tasks import first, log_in

SECRET = "hunter2"


@pytest.fixture
def at_write(settings):
    settings.DJANGO_JOBS = {**getattr(settings, "DJANGO_JOBS", {}), "REDACT_AT_WRITE": True}


@pytest.fixture
def failed_job(transactional_db, valkey):
    return execute(log_in.enqueue("ada", SECRET))


def told_of(job):
    """All texts that are stored of a job and its attempts."""
    rows = [(job.error_message, job.traceback, job.progress_message)]
    rows += job.attempts.values_list("error_message", "traceback", "log")
    return [text for row in rows for text in row]


def test_a_failed_job_is_stored_as_it_told_unless_asked_otherwise(failed_job):
    message = f"postgres://ada:{MASK}@db is not reachable"
    texts = told_of(failed_job)

    assert failed_job.status == FAILED
    assert [text for text in texts if SECRET not in text] == [message, message]
    assert len(texts) == 6


def test_a_secret_in_an_errors_message_cannot_be_guessed_by_searching(failed_job):
    failures = parse("error:reachable").apply(Job.objects.all())
    assert failures.get() == failed_job

    for guess in ("hunt", "hunter2", "ada:h", ":hunter2@db"):
        assert not parse(f'error:"{guess}"').apply(Job.objects.all()).exists()


def test_failures_that_differ_by_a_secret_are_of_one_kind_which_tells_nothing_of_it(failed_job):
    other = execute(log_in.enqueue("ada", "correct-horse"))

    assert other.fingerprint == failed_job.fingerprint


def test_a_failed_job_is_stored_without_its_secrets_if_asked_to(at_write, failed_job):
    message = f"postgres://ada:{MASK}@db is not reachable"

    assert failed_job.status == FAILED
    assert failed_job.error_message == message
    assert f"ValueError: {message}\n" in failed_job.traceback
    assert failed_job.progress_message == f"password={MASK}"
    assert failed_job.attempts.get().log.endswith(f"Authorization: {MASK}")
    assert all(SECRET not in text for text in told_of(failed_job))


def test_a_secret_where_a_long_text_is_cut_is_not_told_by_half(at_write, transactional_db, valkey):
    job = execute(log_in.enqueue("x" * 1985, SECRET))

    assert job.error_message.endswith("x:**…")
    assert all("hunt" not in text for text in told_of(job))


def test_arguments_and_results_are_stored_as_they_are(at_write, transactional_db, valkey):
    job = execute(first.enqueue({"token": SECRET}))

    assert (job.args, job.result) == ([{"token": SECRET}], {"token": SECRET})


@pytest.mark.usefixtures("at_write", "valkey")
@pytest.mark.parametrize(
    "end",
    [
        lambda job: control.fail(job, f"token={SECRET}"),
        lambda job: control.fail(job, LookupError(f"token={SECRET}")),
        lambda job: control.mark_failed(job, reason=f"token={SECRET}"),
        lambda job: fail_untold(job, f"token={SECRET}", "w1"),
    ],
)
def test_what_is_told_of_a_failure_from_outside_is_masked_too(job_factory, end):
    job = job_factory(status=STARTED)

    end(job)

    assert (fresh(job).status, fresh(job).error_message) == (FAILED, f"token={MASK}")


@pytest.mark.usefixtures("at_write", "valkey")
def test_the_reason_why_a_job_was_marked_as_failed_is_masked_wherever_it_is_kept(job_factory):
    job = job_factory()

    control.mark_failed(job, reason=f"token={SECRET}")
    operation = operations.start("mark_failed", "status:queued", reason=f"token={SECRET}")

    assert job.events.get().message == f"token={MASK}"
    assert operation.options == {"reason": f"token={MASK}"}


def test_progress_that_is_told_from_outside_is_masked_too(at_write, job_factory):
    job = job_factory(status=STARTED)

    control.update_progress(job, 10, message=f"token={SECRET}")

    assert fresh(job).progress_message == f"token={MASK}"


def test_what_rq_tells_of_its_own_jobs_is_masked_too(at_write, transactional_db, valkey):
    plain_job = django_rq.get_queue("file_processing").enqueue("tests.tasks.fail")
    error = ("ValueError", f"token={SECRET}", f"Traceback …\nValueError: token={SECRET}\n")

    observer.record(seen_of(plain_job, FAILED, error=error))

    job = row_of(plain_job)
    assert (job.error_message, job.traceback) == (f"token={MASK}", f"Traceback …\nValueError: token={MASK}\n")


@pytest.mark.parametrize("place", [1_950, 1_970, 1_980])
def test_what_rq_tells_of_its_own_jobs_is_masked_before_it_is_cut(transactional_db, valkey, place):
    plain_job = django_rq.get_queue("file_processing").enqueue("tests.tasks.fail")
    message = f"{'x' * place} postgres://ada:correct-horse-battery@db"
    error = plain.describe_error(f"{HEAD}{FRAME}ValueError: {message}{'y' * 99_000}\n")

    observer.record(seen_of(plain_job, FAILED, error=error))

    assert "corr" not in row_of(plain_job).error_message + row_of(plain_job).traceback


def test_a_traceback_of_rq_that_is_read_in_part_ends_before_the_line_that_is_cut(valkey, monkeypatch):
    monkeypatch.setattr(
        plain, "_MOST_UNPACKED_BYTES", len(f"{HEAD}{FRAME}ValueError: one\npostgres://ada:corr")
    )
    packed = b64encode(
        zlib.compress(f"{HEAD}{FRAME}ValueError: one\npostgres://ada:correct-horse@db".encode())
    )

    kind, message, traceback = plain._error("failed", {"exc_string": packed.decode()})

    assert (kind, message) == ("ValueError", "one")
    assert "corr" not in traceback


@pytest.fixture
def admin_page(db, client):
    client.force_login(User.objects.create_superuser("root"))

    def page(name, *args):
        return client.get(reverse(f"admin:django_jobs_{name}", args=args)).text

    return page


def test_pages_show_no_secrets(failed_job, admin_page):
    for page in (
        admin_page("job_changelist"),
        admin_page("job_change", failed_job.pk),
        admin_page("attempt_changelist"),
        admin_page("attempt_change", Attempt.objects.get().pk),
    ):
        assert "ada" in page
        assert SECRET not in page


@pytest.mark.parametrize("command", ["list_failed", "jobs_doctor", "requeue_failed --all --dry-run"])
def test_commands_tell_no_secrets(transactional_db, job_factory, valkey, capsys, command):
    now = timezone.now()
    job_factory(status=FAILED, error_type="E", error_message=f"ada: token={SECRET}", finished_at=now)

    with suppress(SystemExit):  # The doctor has found something.
        call_command(*command.split())
    told = capsys.readouterr().out

    assert f"ada: token={MASK}" in told
    assert SECRET not in told


def test_a_page_masks_arguments_by_position_and_name_meta_and_result(job_factory, admin_page):
    told = {"token": SECRET, "page": 3}
    job = job_factory(
        task="tests.tasks.log_in", args=["ada"], kwargs={"password": SECRET}, meta=told, result=told
    )
    by_position = job_factory(task="tests.tasks.log_in", args=["ada", SECRET])

    page = admin_page("job_change", job.pk)

    assert f"log_in(&#x27;ada&#x27;, password=&#x27;{MASK}&#x27;)" in page
    assert page.count(f"&quot;token&quot;: &quot;{MASK}&quot;") == 3  # The meta also among the raw columns.
    assert page.count("&quot;page&quot;: 3") == 3
    assert SECRET not in page
    assert f"log_in(&#x27;ada&#x27;, &#x27;{MASK}&#x27;)" in admin_page("job_change", by_position.pk)


def test_a_call_of_a_task_that_is_gone_is_shown(job_factory, admin_page):
    job = job_factory(task="tests.tasks.gone", args=[f"token={SECRET}", 1])

    assert f"gone(&#x27;token={MASK}&#x27;, 1)" in admin_page("job_change", job.pk)
