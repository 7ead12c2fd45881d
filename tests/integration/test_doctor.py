"""What jobs_doctor finds in rows and servers that are as they are when something is wrong."""

import json
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from datetime import timedelta
from uuid import uuid4

import pytest
import redis
import rq
from django.conf import settings
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection, connections
from django.db.models.functions import Now
from django.utils import timezone

from django_jobs import control, embedded, registry, relay
from django_jobs.doctor import database, examination, examine, servers
from django_jobs.engines.base import ServerFacts
from django_jobs.engines.rq import parking
from django_jobs.engines.rq.connections import impatient_client, reached
from django_jobs.environment import default_rq_queues
from django_jobs.models import Installation, Job, Lease, Queue, Worker
from django_jobs.models.workers import installation_id
from django_jobs.states import FAILED, QUEUED, SCHEDULED, STARTED
from tests import tasks
from tests.conftest import ROOT, Stopwatch, everything_in, execute, make_worker

pytestmark = [
    # The doctor has connections of its own: it sees what is committed.
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("valkey"),
]

LONG_AGO = timedelta(hours=1)


DOCUMENTED = set(re.findall(r"`(\w+)`", (ROOT / "docs" / "commands.md").read_text().split("\n| check |")[1]))


def told(*checks, level=None):
    """The findings of these checks, as (level, what was found, the fix)."""
    findings = examine()
    assert {each.check for each in findings} <= DOCUMENTED
    return [
        (each.level, each.found, each.fix)
        for each in findings
        if each.check in checks and level in (None, each.level)
    ]


def only(*checks, level=None):
    findings = told(*checks, level=level)
    assert len(findings) == 1, findings
    return findings[0]


@pytest.fixture(autouse=True)
def _much_time(monkeypatch):
    monkeypatch.setattr(examination, "DATABASE_SECONDS", 60)


@pytest.fixture
def maintained():
    Lease.objects.create(name="maintainer", holder="somebody", expires_at=Now() + timedelta(minutes=1))


def delivered(job_factory, **values):
    """A job that was handed to the server long ago and waits there since."""
    job = job_factory(queued_at=Now() - LONG_AGO, **values)
    relay.run_once()
    return job


@pytest.fixture(scope="module", autouse=True)
def _imported():
    """The demo's tasks, whose libraries take seconds to import."""
    registry.discover()


# The command


def test_with_a_worker_and_a_maintainer_all_is_in_order(maintained, capsys):
    make_worker(queues=list(settings.RQ_QUEUES))

    call_command("jobs_doctor")

    *lines, _, verdict = capsys.readouterr().out.splitlines()
    assert verdict == "All is in order."
    assert {line.split()[0] for line in lines} == {"ok"}
    assert any("answers in" in line and "Valkey" in line for line in lines)


def test_an_error_makes_the_exit_code_1_and_stands_first_with_its_fix(job_factory, capsys):
    job_factory()

    with pytest.raises(SystemExit) as ended:
        call_command("jobs_doctor")

    lines = capsys.readouterr().out.splitlines()
    assert ended.value.code == 1
    assert lines[0].startswith("error ")
    assert "         -> python manage.py rqworker file_processing" in lines
    assert re.fullmatch(r"\d errors? and \d warnings?\.", lines[-1])


def test_warnings_alone_are_no_failure(capsys):
    call_command("jobs_doctor")

    assert "No worker runs." in capsys.readouterr().out


def test_json_has_one_shape(job_factory, capsys):
    job_factory()

    with pytest.raises(SystemExit) as ended:
        call_command("jobs_doctor", "--json")

    answer = json.loads(capsys.readouterr().out)
    assert (ended.value.code, answer.keys(), answer["ok"]) == (1, {"ok", "findings"}, False)
    assert {frozenset(each) for each in answer["findings"]} == {frozenset({"level", "check", "found", "fix"})}
    assert {each["level"] for each in answer["findings"]} == {"ok", "warning", "error"}
    assert all(each["fix"] for each in answer["findings"] if each["level"] != "ok")


def test_looking_changes_nothing(valkey, job_factory):
    make_worker(leased_until=Now() - LONG_AGO)
    job_factory(status=STARTED, started_at=Now() - LONG_AGO, worker=None)
    job_factory(status=SCHEDULED, scheduled_for=Now() - LONG_AGO)
    job_factory(queued_at=Now() - LONG_AGO)
    job_factory(status=FAILED, finished_at=Now())
    before = rows()

    examine()

    assert rows() == before
    assert not Installation.objects.exists()
    assert everything_in(valkey) == ""


def rows():
    return [list(model.objects.order_by("pk").values()) for model in (Job, Worker, Queue, Lease)]


# Servers


@contextmanager
def declared_at(url, **more):
    declared, settings.RQ_QUEUES = settings.RQ_QUEUES, {"mail": {"URL": url, **more}}
    try:
        yield
    finally:
        settings.RQ_QUEUES = declared


@pytest.fixture
def own_server(tmp_path):
    """A server that may be set as it pleases, and all queues on it; a client."""
    server = embedded.start(tmp_path / "own")
    with declared_at(server.url), redis.Redis.from_url(server.url) as client:
        yield client
    embedded.stop(tmp_path / "own")


def free_port():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


@contextmanager
def listening(answer):
    """A port where `answer` is called with each connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            while True:
                try:
                    answered, _ = listener.accept()
                except OSError:
                    return
                with answered, suppress(OSError):
                    answer(answered)

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def test_a_refused_connection_is_told_with_the_masked_url_and_where_it_came_from():
    port = free_port()
    with declared_at(f"redis://:secret-4711@127.0.0.1:{port}/3"):
        level, found, fix = only("server")

    assert level == "error"
    assert found.startswith(f"redis://:***@127.0.0.1:{port}/3 refuses the connection: nothing listens there.")
    assert "It is named by RQ_QUEUES in tests.settings. Its queues: mail." in found
    assert "Start the server" in fix
    assert "RQ_QUEUES in tests.settings" in fix


def test_the_variable_and_the_file_that_name_the_server_are_told(tmp_path, monkeypatch):
    for name in ("REDIS_URL", "TASKIQ_REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".env").write_text(f"REDIS_URL=redis://127.0.0.1:{free_port()}/0\n")
    monkeypatch.setattr(settings, "BASE_DIR", tmp_path)
    monkeypatch.setattr(settings, "RQ_QUEUES", default_rq_queues())

    _, found, fix = only("server")

    assert f"It is named by REDIS_URL in {tmp_path}/.env. Its queues: default." in found
    assert f"REDIS_URL in {tmp_path}/.env" in fix


def test_an_embedded_server_that_does_not_run_is_started_by_its_command(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "BASE_DIR", tmp_path)
    with declared_at(embedded.url(tmp_path / ".django_jobs")):
        _, found, fix = only("server")

    assert "is the embedded server, which does not run" in found
    assert fix.startswith("python manage.py jobs_redis start")
    assert not (tmp_path / ".django_jobs").exists()


def test_a_frozen_server_is_told_within_a_second_or_so(freeze):
    freeze()

    with Stopwatch() as watch:
        findings = told("server")

    assert watch.seconds < 4
    assert [(level, "does not answer within a second" in found) for level, found, _ in findings] == [
        ("error", True)
    ]


def test_many_frozen_servers_take_no_longer_than_one(freeze, valkey_server, monkeypatch):
    many = {f"queue{number}": {"URL": f"{valkey_server.url}?db={number}"} for number in range(8)}
    monkeypatch.setattr(settings, "RQ_QUEUES", many)
    freeze()

    with Stopwatch() as watch:
        findings = told("server")

    assert watch.seconds < 4
    assert [level for level, _, _ in findings] == ["error"] * 8


def test_a_server_that_answers_bit_by_bit_keeps_nobody_waiting():
    def trickle(client):
        client.sendall(b"$1000000\r\n")
        while True:
            client.sendall(b".")
            time.sleep(0.2)

    with listening(trickle) as port, declared_at(f"redis://127.0.0.1:{port}"), Stopwatch() as watch:
        level, found, _ = only("server")

    assert watch.seconds < 5
    assert (level, "does not answer" in found) == ("error", True)


def test_a_wrong_and_a_missing_password_are_told_without_any(own_server, tmp_path):
    own_server.config_set("requirepass", "right-4711")
    path = f"{tmp_path}/own/valkey.sock"

    answers = []
    for login in ("", ":wrong-4711@"):
        with declared_at(f"unix://{login}{path}"):
            answers.append(only("server"))
    own_server.config_set("requirepass", "")

    for _, found, fix in answers:
        assert "refuses the login: the password or the user is wrong or missing" in found
        assert "-4711" not in found + fix


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("unix:///nowhere/valkey.sock", "is a socket that does not exist"),
        ("redis://no-such-host.invalid:6379", "has a host whose name cannot be resolved"),
    ],
)
def test_a_wrong_place_is_told(url, words):
    with declared_at(url):
        level, found, _ = only("server")

    assert (level, words in found) == ("error", True)


def test_a_database_number_that_the_server_does_not_have_is_told(own_server, tmp_path):
    with declared_at(f"unix://{tmp_path}/own/valkey.sock?db=99"):
        assert "has no database of this number" in only("server")[1]


def test_a_server_without_room_for_a_client_is_told(own_server):
    own_server.ping()
    own_server.config_set("maxclients", 1)

    _, found, fix = only("server")
    own_server.config_set("maxclients", 100)

    assert "has no room for another client" in found
    assert "maxclients" in fix


def test_what_is_no_redis_is_told():
    with (
        listening(
            lambda client: (client.recv(1000), client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
        ) as port,
        declared_at(f"redis://127.0.0.1:{port}"),
    ):
        assert "answers, but is no Redis" in only("server")[1]


def test_a_connection_that_is_closed_at_once_is_told():
    with listening(lambda client: None) as port, declared_at(f"redis://127.0.0.1:{port}"):
        _, found, fix = only("server")

    assert "closes the connection at once" in found
    assert "rediss://" in fix


def test_a_certificate_that_is_not_trusted_is_told(tmp_path):
    if not shutil.which("openssl"):
        pytest.skip("openssl makes the certificate.")
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost "
        "-keyout own.key -out own.crt"
    )
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True, timeout=120)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "own.crt", tmp_path / "own.key")

    with (
        listening(lambda client: context.wrap_socket(client, server_side=True).close()) as port,
        declared_at(f"rediss://127.0.0.1:{port}"),
    ):
        assert "shows a certificate that is not trusted" in only("server")[1]


@pytest.mark.parametrize(
    ("policy", "level", "words"),
    [
        ("noeviction", "ok", "deletes nothing"),
        ("allkeys-lru", "error", "deletes any keys"),
        ("volatile-ttl", "warning", "deletes keys with an expiry"),
    ],
)
def test_what_the_server_does_when_it_is_full_is_told(own_server, policy, level, words):
    own_server.config_set("maxmemory-policy", policy)

    found = only("memory")

    assert (found[0], words in found[1]) == (level, True)
    assert level == "ok" or "own/valkey.sock config set maxmemory-policy noeviction" in found[2]


@pytest.mark.parametrize(("setting", "words"), [("yes", "with an"), ("no", "without an")])
def test_whether_the_server_keeps_what_it_holds_is_told(own_server, setting, words):
    own_server.config_set("appendonly", setting)

    level, found, _ = only("server")

    assert (level, f", {words} append-only file, " in found) == ("ok", True)


def test_a_full_server_is_an_error_and_a_nearly_full_one_a_warning(own_server):
    own_server.config_set("appendonly", "no")  # Its buffers come and go.
    for number in range(200):
        own_server.set(f"large{number}", b" " * 100_000)
    used = own_server.info("memory")["used_memory"]
    levels = []
    for most in (used // 2, int(used * 1.05), used * 10):
        own_server.config_set("maxmemory", most)
        levels.append([level for level, found, _ in told("memory") if "MB it may have" in found])

    assert levels == [["error"], ["warning"], []]


def test_a_user_who_may_not_ask_for_the_policy_is_told(own_server, tmp_path):
    allowed = ["+get", "+eval", "+exists"]
    own_server.acl_setuser("lim", enabled=True, passwords=["+x-4711"], keys=["rq:*"], commands=allowed)

    with declared_at(f"unix://lim:x-4711@{tmp_path}/own/valkey.sock"):
        level, found, fix = only("memory")

    assert (level, "does not tell" in found, "INFO" in fix) == ("warning", True, True)


def test_a_replica_is_told(own_server):
    own_server.replicaof("127.0.0.1", free_port())

    assert "is a replica and refuses writes" in only("server", level="error")[1]


def test_suspended_workers_are_told(valkey):
    valkey.set("rq:suspended", 1)

    _, found, fix = only("server", level="error")

    assert "are suspended; they take no job" in found
    assert fix.startswith("rq resume --url unix://")


def test_a_clock_that_is_far_off_is_told():
    ahead = servers.clock(ServerFacts("redis://one", {}, ahead_seconds=60))
    behind = database.skew(timezone.now() - timedelta(seconds=60))
    near = database.skew(timezone.now() + timedelta(seconds=1))

    assert "is 60 s ahead of this host's" in next(ahead).found
    assert "is 60 s behind this host's" in next(behind).found
    assert next(near).level == "ok"


# The project


def test_settings_of_no_use_are_told(monkeypatch):
    monkeypatch.setattr(settings, "DJANGO_JOBS", {"QUUES": []})

    level, found, fix = only("settings")

    assert (level, found) == ("error", "django_jobs.E004: DJANGO_JOBS has the unknown key 'QUUES'.")
    assert 'Did you mean "QUEUES"?' in fix


def test_jobs_that_run_where_they_are_enqueued_are_told(monkeypatch):
    monkeypatch.setattr(settings, "DJANGO_JOBS", {"IMMEDIATE": True})

    assert "jobs run in the process that enqueues them" in only("settings", level="warning")[1]


def test_no_piece_of_a_password_is_told_whatever_is_wrong_with_its_url(job_factory):
    failed(job_factory, "ValueError", "Port could not be cast to integer value as 'fourseven'")
    with declared_at("redis://ada:fourseven/eleven@host:6379"):
        findings = examine()

    assert any(each.check == "settings" and each.level == "error" for each in findings)
    assert not any(word in str(findings) for word in ("fourseven", "eleven"))


# The database


def test_a_table_that_is_gone_stops_one_check_and_not_the_others(job_factory):
    job_factory()
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE django_jobs_installation RENAME TO gone")
    try:
        level, found, _ = only("namespace")
        others = told("queue")
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE gone RENAME TO django_jobs_installation")

    assert (level, "This could not be looked at:" in found) == ("error", True)
    assert others[0][0] == "error"


def test_a_database_that_hangs_is_told_in_time(monkeypatch):
    if connection.vendor == "sqlite":
        pytest.skip("On SQLite nothing keeps a reader waiting.")
    monkeypatch.setattr(examination, "DATABASE_SECONDS", 1)
    done = threading.Event()

    def hold_the_lock(held):
        with connections["default"].cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute("LOCK TABLE django_jobs_job")
            held.set()
            done.wait(120)
            cursor.execute("ROLLBACK")
        connections.close_all()

    held = threading.Event()
    holder = threading.Thread(target=hold_the_lock, args=[held])
    holder.start()
    held.wait(60)
    with Stopwatch() as watch:
        findings = told("database")
    done.set()
    holder.join()
    for thread in threading.enumerate():
        if thread.name == "django-jobs-doctor-database":
            thread.join(60)

    assert watch.seconds < 5
    assert [level for level, _, _ in findings] == ["error", "ok"]
    assert "could not be looked at to its end within 1 s" in findings[0][1]


def test_a_code_older_than_the_database_is_told():
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO django_migrations (app, name, applied) VALUES ('django_jobs', '0999_later', %s)",
            [timezone.now()],
        )
    try:
        level, found, _ = only("database")
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM django_migrations WHERE name = '0999_later'")

    assert (level, "migrated further than this code knows: 0999_later" in found) == ("warning", True)


def test_another_prefix_than_the_workers_is_told():
    Installation.objects.create(namespace="other")

    level, found, fix = only("namespace")

    assert (level, 'begin with "rq"' in found, fix.endswith('RQ_KEY_PREFIX="other"')) == ("error", True, True)


def test_deliveries_of_another_project_are_told(job_factory):
    delivered(job_factory)
    other = installation_id()
    Installation.objects.filter(pk=other).update(id=uuid4())

    level, found, fix = only("foreign")

    assert (level, str(other) in found, "file_processing" in found) == ("error", True, True)
    assert "RQ_KEY_PREFIX" in fix


def test_what_workers_have_parked_for_another_project_is_told_and_junk_there_is_not(valkey):
    installation_id()
    with reached(impatient_client("file_processing")) as client:
        parking.park(client, "file_processing", f"{uuid4().hex}-1-0", "of somebody else")
    valkey.lpush(parking.PARKED_KEY, b"\xff", "1", "{}")

    level, found, _ = only("foreign")

    assert (level, "1 of installation of somebody else" in found) == ("error", True)


def test_own_deliveries_and_junk_are_no_other_projects(valkey, job_factory):
    job = delivered(job_factory)
    valkey.rpush("rq:queue:file_processing", "junk", f"{job.pk.hex}-7-7", b"\xff")
    valkey.hset(f"rq:job:{job.pk.hex}-7-7", "data", "junk")
    valkey.set("rq:queue:vectorization", "no list")

    assert told("foreign") == []


# Queues


def test_jobs_that_wait_where_no_worker_listens_are_told_with_the_command(job_factory):
    make_worker(queues=["vectorization"])
    for minutes in (1, 12, 3):
        job_factory(queued_at=Now() - timedelta(minutes=minutes))

    level, found, fix = only("queue")

    assert level == "error"
    assert re.fullmatch(
        r'3 jobs wait on queue "file_processing", the first since .*\d\d:\d\d:\d\d UTC \(12 minutes\), '
        "and no worker listens to it.",
        found,
    )
    assert fix == "python manage.py rqworker file_processing"


def test_a_worker_that_went_silent_does_not_listen(job_factory):
    make_worker(queues=["file_processing"], leased_until=Now())
    job_factory()

    assert only("queue")[0] == "error"


def test_jobs_that_a_worker_will_take_are_in_order(job_factory):
    make_worker(queues=["file_processing"])
    job_factory()

    level, found, _ = only("queue")

    assert (level, found.endswith("w1 will take it.")) == ("ok", True)


def test_jobs_that_wait_although_a_worker_is_idle_are_told(job_factory):
    make_worker(queues=["file_processing"])
    delivered(job_factory)

    level, found, _ = only("queue")

    assert (level, "although w1 listens to it and is idle" in found) == ("warning", True)


def test_jobs_that_wait_long_for_busy_workers_are_told(job_factory):
    make_worker(queues=["file_processing"], state=Worker.State.BUSY)
    delivered(job_factory)

    level, found, fix = only("queue")

    assert (level, "all busy" in found) == ("warning", True)
    assert fix == "Start another worker: python manage.py rqworker file_processing"


def test_jobs_that_wait_in_a_queue_that_moves_are_in_order(job_factory):
    make_worker(queues=["file_processing"])
    delivered(job_factory)
    job_factory(status=FAILED, finished_at=Now())

    assert only("queue")[0] == "ok"


def test_a_paused_queue_is_told_with_who_and_when_and_the_command(job_factory):
    job_factory()
    control.pause("file_processing", by=User.objects.create_superuser("ada"))

    level, found, fix = only("queue")

    assert level == "warning"
    assert re.search(r"The queue is paused by ada since .* \(\d+ s\)\.$", found)
    assert fix == "python manage.py jobs_resume file_processing"


def test_a_queue_that_nobody_declares_is_told(job_factory):
    for queue in ("aaa", "gone away", "zzz"):
        job_factory(queue=queue)

    findings = told("queue")

    assert [level for level, _, _ in findings] == ["error"] * 3
    assert "No engine declares this queue" in findings[1][1]
    assert findings[1][2].endswith("python manage.py jobs_cancel --queue 'gone away'")


# Workers and the maintainer


def test_a_silent_worker_is_told_with_when_it_last_answered():
    make_worker(name="w7", leased_until=Now() - LONG_AGO, seen_at=Now() - LONG_AGO, queues=["vectorization"])

    _, found, fix = next(each for each in told("worker") if "w7" in each[1])

    assert re.search(
        r"Worker w7 on host \(pid 1\) went silent; it last answered at .* \(60 minutes ago\)", found
    )
    assert fix.endswith("python manage.py rqworker vectorization")


def test_a_worker_on_queues_that_are_declared_no_more_is_told():
    make_worker(queues=["file_processing", "old"])

    assert "declared no more here: old" in only("worker", level="warning")[1]


def test_a_worker_that_the_database_does_not_know_is_told(valkey):
    make_worker(name="ours", queues=["file_processing"])
    for name in ("ours", "stranger"):
        rq.Worker(["file_processing"], connection=valkey, name=name).register_birth()
    valkey.sadd("rq:workers:file_processing", "rq:worker:ended")

    _, found, _ = only("worker", level="warning")

    assert "is also worked on by stranger, which the database does not know" in found


def test_without_a_maintainer_jobs_that_are_not_done_are_an_error(job_factory):
    assert only("maintainer")[0] == "warning"

    job_factory(status=SCHEDULED, scheduled_for=Now() + LONG_AGO)

    level, _, fix = only("maintainer")
    assert (level, fix) == ("error", "python manage.py rqworker (without --no-maintainer)")


def test_a_maintainer_whose_lease_is_over_does_not_count(job_factory):
    Lease.objects.create(name="maintainer", holder="somebody", expires_at=Now() - timedelta(seconds=1))
    job_factory()

    assert only("maintainer")[0] == "error"


def test_jobs_that_are_not_delivered_are_told(job_factory):
    delivered(job_factory)
    assert told("delivery") == []

    job_factory(queued_at=Now() - LONG_AGO)
    job_factory()  # Just now.

    level, found, _ = only("delivery")
    assert (level, found.startswith("1 job not handed to unix://")) == ("error", True)


def test_after_the_server_was_emptied_nothing_counts_as_delivered(valkey, job_factory, maintained):
    delivered(job_factory)
    job_factory(queued_at=Now() - LONG_AGO)
    valkey.flushall()

    level, found, _ = only("delivery")

    assert (level, found.startswith("2 jobs not handed")) == ("warning", True)


def test_after_the_server_was_restored_nothing_counts_as_delivered(valkey, job_factory):
    epoch = "the run id of before:word"
    valkey.set("rq:django_jobs:epoch", epoch)
    job_factory(queued_at=Now() - LONG_AGO, delivered_at=Now() - LONG_AGO, delivered_epoch=epoch)

    assert only("delivery")[1].startswith("1 job not handed")


def test_jobs_of_a_paused_queue_need_not_be_delivered(job_factory):
    control.pause("file_processing")
    job_factory(queued_at=Now() - LONG_AGO)

    assert told("delivery") == []


def test_overdue_jobs_are_told(job_factory):
    job_factory(status=SCHEDULED, scheduled_for=Now() - LONG_AGO)
    job_factory(status=SCHEDULED, scheduled_for=Now() + LONG_AGO)

    level, found, fix = only("schedule")

    assert (level, found.startswith("1 job overdue and not queued, the first since")) == ("error", True)
    assert "without --no-maintainer" in fix


def test_jobs_of_a_worker_that_is_gone_are_told(job_factory):
    gone = make_worker(leased_until=Now() - LONG_AGO)
    job_factory(status=STARTED, started_at=Now() - LONG_AGO, worker=gone)
    job_factory(status=STARTED, started_at=Now() - LONG_AGO)
    job_factory(status=STARTED, started_at=Now() - LONG_AGO, worker=None, elsewhere_until=Now() + LONG_AGO)

    assert only("lost")[1].startswith("1 job marked as running, by a worker that is gone.")


# Tasks and failures


@pytest.mark.parametrize(("status", "level"), [(QUEUED, "error"), (FAILED, "warning")])
def test_jobs_whose_task_cannot_be_loaded_are_told(job_factory, status, level):
    job_factory(status=status, task="tests.tasks.ad")

    found = only("task")

    assert found[0] == level
    assert 'Did you mean "tests.tasks.add"?' in found[1]


def test_a_task_that_may_not_run_is_told(job_factory):
    job_factory(task="os.system")

    assert "TaskNotAllowed" in only("task")[1]


def failed(job_factory, error_type, message="", **values):
    values.setdefault("finished_at", Now())
    return job_factory(status=FAILED, error_type=error_type, error_message=message, **values)


def test_failures_of_a_day_are_grouped_by_their_error_with_the_newest(job_factory):
    for number in range(3):
        job = failed(job_factory, "ValueError", f"bad {number}", finished_at=Now() - (4 - number) * LONG_AGO)
    failed(job_factory, "LookupError")
    failed(job_factory, "ValueError", "long ago", finished_at=Now() - timedelta(hours=25))

    findings = told("failures")

    assert [found.split(" in the last")[0] for _, found, _ in findings] == [
        "1 job failed with LookupError",
        "3 jobs failed with ValueError",
    ]
    assert '"bad 2"' in findings[1][1]
    assert findings[1][2].endswith(f"python manage.py requeue_failed {' '.join(ids('ValueError'))}")
    assert str(job.pk) in findings[1][2]


def ids(error_type):
    recent = Job.objects.failed().filter(error_type=error_type, finished_at__gte=Now() - timedelta(days=1))
    return [str(job.pk) for job in recent.order_by("-id")]


def test_the_innermost_place_in_the_projects_own_code_is_told(job_factory):
    execute(job_factory(task="tests.tasks.fail_deep", args=[3]))

    assert re.search(r"/tests/tasks\.py, line \d+ \(fail_deep\)\.$", only("failures")[1])
    assert f"line {line_of('at the bottom')} " in only("failures")[1]


def line_of(text):
    lines = (ROOT / "tests" / "tasks.py").read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line)


def test_many_failures_are_requeued_by_their_error(job_factory):
    for _ in range(4):
        failed(job_factory, "app.Broken")

    _, command = only("failures")[2].split("python manage.py ")
    call_command(*command.split())

    assert command == "requeue_failed --since 1d --error app.Broken"
    assert {job.status for job in Job.objects.all()} == {QUEUED}


def test_of_very_many_failures_the_newest_are_read(db):
    Job.objects.bulk_create(
        Job(task="a", queue="b", status=FAILED, error_type="E", finished_at=Now()) for _ in range(250)
    )

    assert only("failures")[1].startswith("200 of the newest 200 failed jobs failed with E ")


@pytest.mark.parametrize(
    ("error_type", "message", "why", "fix"),
    [
        ("WorkerLost", "Worker w1: its process was ended by signal 9 (Killed).", "memory runs out", "dmesg"),
        ("WorkerLost", "Worker w1 last answered at 10:02:11.", "nobody knows how far", "idempotent=True"),
        ("rq.timeouts.JobTimeoutException", "…", "longer than its time limit", "timeout=SECONDS"),
        ("django_jobs.exceptions.CpuLimitExceeded", "…", "more than its task or", "Raise the limit"),
        ("django_jobs.exceptions.TaskNotFound", "…", "no function of this name", "@task(name=…)"),
        ("django_jobs.exceptions.TaskNotAllowed", "…", "is no @task", "ALLOWED_TASKS"),
        ("django.db.utils.OperationalError", "database is locked", "SQLite", '"timeout": 30'),
        ("psycopg.OperationalError", "the connection is lost", "was not reached", "Retry("),
        (
            "django.core.exceptions.SynchronousOnlyOperation",
            "You cannot call this from an async context",
            "inside a running event loop",
            "sync_to_async",
        ),
        (
            "RuntimeError",
            "You cannot use AsyncToSync in the same thread as an async event loop - just await",
            "where one runs already",
            "aenqueue",
        ),
        ("RuntimeError", "Event loop is closed", "another event loop", "inside the coroutine"),
        (
            "RuntimeError",
            "<Future> attached to a different loop",
            "another event loop",
            "inside the coroutine",
        ),
        ("ModuleNotFoundError", "No module named 'x'", "could not be imported", "Install"),
    ],
)
def test_known_errors_are_explained(job_factory, error_type, message, why, fix):
    failed(job_factory, error_type, message)

    level, found, remedy = only("failures")

    assert (level, why in found, fix in remedy) == ("warning", True, True), (found, remedy)


def test_an_error_of_the_same_name_with_other_words_is_not_explained(job_factory):
    failed(job_factory, "RuntimeError", "the moon is full")
    failed(job_factory, "app.NotWorkerLost", "signal 9")

    assert ["event loop" in found or "killed" in found for _, found, _ in told("failures")] == [False] * 2


def test_what_a_job_says_neither_steers_the_terminal_nor_tells_a_password(job_factory, capsys):
    failed(job_factory, "ValueError", "\x1b[2J\x9b2Jredis://ada:pw-4711@host said pw-4711\r\nok all is well")

    with declared_at("redis://ada:pw-4711@127.0.0.1:1"), pytest.raises(SystemExit):
        call_command("jobs_doctor")

    out = capsys.readouterr().out
    assert '[2J 2Jredis://***@host said *** ok all is well"' in out
    assert not {"\x1b", "\x9b", "\r"} & set(out)
    assert "-4711" not in out


def test_the_doctor_sees_a_job_that_was_really_delivered_and_has_nothing_to_say(maintained):
    make_worker(queues=list(settings.RQ_QUEUES))
    tasks.add.enqueue(1)

    assert {each.level for each in examine()} == {"ok"}


# Reports in files


@pytest.fixture
def spool_folder(settings, tmp_path):
    settings.DJANGO_JOBS = {**settings.DJANGO_JOBS, "SPOOL_DIRECTORY": tmp_path / "spool"}
    return tmp_path / "spool" / "reports"


def test_reports_that_wait_for_a_worker_are_told(spool_folder):
    spool_folder.mkdir(mode=0o700, parents=True)
    (spool_folder / "report.999999-1.json").write_text("{}")

    level, found, fix = only("reports")

    assert (level, f"1 report of workers that have ended wait in {spool_folder}" in found) == (
        "warning",
        True,
    )
    assert "python manage.py rqworker" in fix


def test_a_folder_that_others_may_write_to_is_told(spool_folder):
    spool_folder.mkdir(parents=True)
    spool_folder.chmod(0o777)

    level, found, _ = only("reports")

    assert (level, "others may write to it; it must be this user's alone" in found) == ("warning", True)


def test_without_reports_there_is_nothing_to_tell(spool_folder):
    assert told("reports") == []
