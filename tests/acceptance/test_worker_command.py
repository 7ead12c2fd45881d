"""`manage.py rqworker` as a command: how it starts, what it says, and RQ's own workers beside it."""

import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager

import pytest
import redis
from django.db import connections

from django_jobs import embedded
from django_jobs.models import Installation, Worker
from django_jobs.processes import identity
from django_jobs.states import FINISHED, QUEUED
from tests import tasks
from tests.conftest import ROOT, VERSION, fresh, wait_until, write


def test_an_unknown_queue_ends_the_command_and_names_the_one_that_was_meant(start_worker):
    worker = start_worker("file_procesing")

    assert worker.process.wait(timeout=60) == 1

    told = worker.log.read_text()
    assert 'CommandError: Unknown queue "file_procesing". Did you mean "file_processing"?' in told
    assert "Traceback" not in told
    assert not Worker.objects.exists()


@pytest.fixture
def later_server(tmp_path):
    """Where a server with a password will be, and a function that starts it."""
    folder = tmp_path / "later"
    bare = embedded.url(folder)
    url = bare.replace("unix://", "unix://:secret-4711@")

    def start():
        embedded.start(folder)
        with redis.Redis.from_url(bare) as client:
            client.config_set("requirepass", "secret-4711")

    yield url, start
    with redis.Redis.from_url(url) as client:
        client.config_set("requirepass", "")
    embedded.stop(folder)


def test_a_worker_waits_for_redis_and_says_so_in_one_line_without_the_password(start_worker, later_server):
    url, start_server = later_server
    job = tasks.add.enqueue(1, 2)
    worker = start_worker("file_processing", REDIS_URL=url)
    wait_until(lambda: "is not reached" in worker.log.read_text())
    [line, *_] = worker.log.read_text().splitlines()

    start_server()

    assert job.wait(timeout=60).result == 3
    assert re.search(
        r"Redis at unix://:\*\*\*@\S*valkey\.sock\S* is not reached \(.*\); trying again in 1 s", line
    )
    assert "secret-4711" not in worker.log.read_text()
    assert "Traceback" not in worker.log.read_text()


def test_a_burst_worker_runs_what_waits_and_ends(start_worker):
    jobs = [tasks.add.enqueue(number) for number in range(3)]

    worker = start_worker("file_processing", "--burst")

    assert worker.process.wait(timeout=60) == 0
    assert [fresh(job).status for job in jobs] == [FINISHED] * 3
    assert not Worker.objects.exists()


def test_jobs_worker_is_the_same_command_and_writes_its_pid(start_worker, tmp_path):
    job = tasks.add.enqueue(1)
    worker = start_worker("file_processing", "--burst", "--pid", str(tmp_path / "pid"), command="jobs_worker")

    assert worker.process.wait(timeout=60) == 0
    assert fresh(job).status == FINISHED
    assert (tmp_path / "pid").read_text() == str(worker.pid)


def test_a_worker_without_a_maintainer_leaves_due_jobs_to_another(start_worker, job_factory):
    undelivered = job_factory(args=[1])
    delivered = tasks.add.enqueue(1)

    start_worker("file_processing", "--no-maintainer")
    delivered.wait(timeout=60)
    assert fresh(undelivered).delivered_at is None

    start_worker("file_processing")
    assert undelivered.wait(timeout=60).status == FINISHED


@contextmanager
def plain_rq_worker(valkey_server, tmp_path, *arguments):
    """RQ's own `rq worker` in a process that knows Django; its log."""
    environment = {
        "DJANGO_SETTINGS_MODULE": "tests.worker_settings",
        "DATABASE_NAME": str(connections["default"].settings_dict["NAME"]),
        "REDIS_URL": valkey_server.url,
        "PROJECT_DATA": str(tmp_path),
    }
    log = tmp_path / "rq.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "rq.cli", "worker", "-c", "tests.plain_rq", *arguments],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=output,
            stderr=output,
        )
    try:
        yield log
    finally:
        process.terminate()
        process.wait(timeout=60)


def test_rqs_own_worker_runs_our_jobs_too(transactional_db, valkey, valkey_server, tmp_path):
    good = tasks.add.enqueue(1, 2)
    bad = tasks.fail.enqueue("why")

    with plain_rq_worker(valkey_server, tmp_path, "--serializer", "json", "file_processing") as log:
        good.wait(timeout=60)
        bad.wait(timeout=60)
        wait_until(lambda: not Worker.objects.exists())

    assert (good.status, good.result) == (FINISHED, 3), log.read_text()
    assert (bad.status, bad.error_message) == ("failed", "why")
    assert good.attempts.get().worker_name.startswith("rq.")


TELLING = """
    import logging, os
    from django_jobs import task

    IMPORTED_BY = os.getpid()

    @task(queue="file_processing")
    def tell():
        logging.getLogger("shop").info("selling", extra={"task": "own"})
        logging.getLogger("shop.pages").warning("x" * 20_000)
        return [IMPORTED_BY, os.getpid()]
"""


def test_the_worker_introduces_itself_in_one_line(start_worker, valkey_server):
    worker = start_worker("file_processing", "vectorization", "--name", "w-7")
    wait_until(lambda: "Worker w-7" in worker.log.read_text())

    [line] = [line for line in worker.log.read_text().splitlines() if "works on" in line]
    database = connections["default"]
    assert "Worker w-7 works on file_processing, vectorization; " in line
    assert f"server: {valkey_server.url}" in line
    assert f"database: {database.display_name} {database.settings_dict['NAME']}" in line
    assert "finished and canceled jobs are kept 7 days, failed ones 90 days." in line


def test_a_worker_whose_keys_begin_otherwise_than_before_says_so(start_worker):
    Installation.objects.update_or_create(defaults={"namespace": "other"})

    worker = start_worker("file_processing")

    words = 'Keys in Redis began with "other", now with "rq": is RQ_KEY_PREFIX the same for all processes?'
    wait_until(lambda: words in worker.log.read_text())
    wait_until(lambda: Installation.objects.get().namespace == "rq")


def test_a_password_of_the_server_is_not_told(start_worker, later_server):
    url, start_server = later_server
    start_server()
    worker = start_worker("file_processing", REDIS_URL=url)

    wait_until(lambda: "works on" in worker.log.read_text())

    assert "secret-4711" not in worker.log.read_text()


def test_a_worker_ends_after_so_many_jobs(start_worker):
    jobs = [tasks.add.enqueue(number) for number in range(3)]

    worker = start_worker("file_processing", "--max-jobs", "2")

    assert worker.process.wait(timeout=60) == 0
    assert sorted(fresh(job).status for job in jobs) == [FINISHED, FINISHED, QUEUED]


def test_a_worker_ends_when_it_was_idle_for_so_long(start_worker):
    job = tasks.add.enqueue(1)

    worker = start_worker("file_processing", "--max-idle-time", "1")

    assert worker.process.wait(timeout=60) == 0
    assert fresh(job).status == FINISHED
    assert not Worker.objects.exists()


def test_a_worker_has_the_name_that_it_was_given(start_worker):
    job = tasks.add.enqueue(1)

    start_worker("file_processing", "--name", "w-7")

    job.wait(timeout=60)
    assert Worker.objects.get().name == "w-7"
    assert job.attempts.get().worker_name == "w-7"


def test_a_worker_takes_the_classes_of_queues_and_jobs_that_it_was_given(start_worker, shop):
    folder, environment = shop
    write(
        folder / "shop" / "classes.py",
        """
        import logging, rq, rq.job
        class Queue(rq.Queue):
            def __init__(self, name, *args, **kwargs):
                super().__init__(name, *args, **kwargs)
                logging.getLogger("shop").warning("a queue of the shop")
        class Job(rq.job.Job):
            def perform(self):
                logging.getLogger("shop").warning("a job of the shop")
                return super().perform()
        """,
    )
    job = tasks.add.enqueue(1, 2)

    options = ["--queue-class", "shop.classes.Queue", "--job-class", "shop.classes.Job"]
    options.append("--isolation=fork")  # Else a delivery needs no job class.
    worker = start_worker("file_processing", "--burst", *options, **environment)

    assert worker.process.wait(timeout=60) == 0
    assert fresh(job).result == 3
    assert "a queue of the shop" in worker.log.read_text()
    assert "a job of the shop" in worker.log.read_text()


def test_the_tasks_are_imported_once_before_the_first_child(start_worker, shop, job_factory):
    folder, environment = shop
    write(folder / "shop" / "tasks.py", TELLING)
    jobs = [job_factory(task="shop.tasks.tell") for _ in range(2)]

    worker = start_worker("file_processing", **environment)

    told = [job.wait(timeout=60).result for job in jobs]
    assert [imported_by for imported_by, _ in told] == [worker.pid, worker.pid]
    assert worker.pid not in {ran_in for _, ran_in in told}


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("def broken(:", "SyntaxError: invalid syntax"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_tasks_that_cannot_be_imported_end_the_command_with_a_line(start_worker, shop, code, problem):
    folder, environment = shop
    path = folder / "shop" / "tasks.py"
    write(path, f"\n{code}")

    worker = start_worker("file_processing", **environment)

    assert worker.process.wait(timeout=60) == 1
    told = worker.log.read_text()
    assert f"CommandError: shop.tasks cannot be imported: {problem}" in told
    assert f"{path}, line 2" in told
    assert "Traceback" not in told


def test_the_log_of_a_project_that_configures_none_tells_jobs(start_worker, shop, job_factory):
    folder, environment = shop
    with (folder / "shop_settings.py").open("a") as settings:
        settings.write("LOGGING = {}\n")
    write(folder / "shop" / "tasks.py", TELLING)
    job = job_factory(task="shop.tasks.tell")

    worker = start_worker("file_processing", "--burst", **environment)
    assert worker.process.wait(timeout=60) == 0

    told = worker.log.read_text()
    assert fresh(job).status == FINISHED, told
    assert f"INFO shop [{job.pk} own file_processing 1]: selling\n" in told
    assert f"INFO django_jobs [{job.pk} shop.tasks.tell file_processing 1]: Job started" in told
    assert f"INFO django_jobs [{job.pk} shop.tasks.tell file_processing 1]: Job ended" in told
    assert re.search(r"INFO rq.worker \[- - - -\]: ", told)


def test_formats_of_the_project_may_name_the_job(start_worker, shop, job_factory):
    folder, environment = shop
    with (folder / "shop_settings.py").open("a") as settings:
        settings.write("LOGGING['formatters']['line']['format'] = '<%(job_id)s> %(name)s %(message)s'\n")
    write(folder / "shop" / "tasks.py", TELLING)
    job = job_factory(task="shop.tasks.tell")

    worker = start_worker("file_processing", "--burst", **environment)
    assert worker.process.wait(timeout=60) == 0

    told = worker.log.read_text()
    assert f"<{job.pk}> shop selling\n" in told
    assert "<-> rq.worker" in told
    assert "Logging error" not in told


@pytest.mark.parametrize("how", ["option", "setting"])
def test_the_log_goes_to_a_file_that_may_be_moved_away(start_worker, shop, job_factory, how, tmp_path):
    folder, environment = shop
    path = tmp_path / "jobs.log"
    if how == "setting":
        with (folder / "shop_settings.py").open("a") as settings:
            settings.write(f"DJANGO_JOBS = {{**DJANGO_JOBS, 'LOG_FILE': {str(path)!r}}}\n")
    write(folder / "shop" / "tasks.py", TELLING)
    options = ["--log-file", str(path)] if how == "option" else []
    worker = start_worker("file_processing", *options, **environment)
    first = job_factory(task="shop.tasks.tell")
    first.wait(timeout=60)

    path.rename(tmp_path / "jobs.log.1")
    second = job_factory(task="shop.tasks.tell")
    second.wait(timeout=60)
    wait_until(lambda: f"[{second.pk} shop.tasks.tell file_processing 1]: Job ended" in path.read_text())
    worker.stop()

    before, after = (tmp_path / "jobs.log.1").read_text(), path.read_text()
    assert "works on file_processing" in before
    assert f"[{first.pk} own file_processing 1]: selling\n" in before
    assert f"[{second.pk} own file_processing 1]: selling\n" in after
    assert str(second.pk) not in before
    assert "warm shut down requested" in after  # What the parent says.
    assert all(re.match(r"\d{4}-\d\d-\d\d ", line) for line in (before + after).splitlines())


def test_what_several_workers_write_to_one_log_file_stays_in_whole_lines(start_worker, tmp_path):
    path = tmp_path / "jobs.log"
    jobs = [tasks.log_lines.enqueue(50, letter * 30_000) for letter in "abcd"]

    workers = [start_worker("file_processing", "--log-file", str(path)) for _ in jobs]
    for job in jobs:
        job.wait(timeout=60)
    for worker in workers:
        worker.stop()

    long = [line for line in path.read_text().splitlines() if len(line) > 10_000]
    assert len(long) == 200
    assert all(re.fullmatch(r"20.{30,150}\]: \d+ (a+|b+|c+|d+)", line) for line in long)
    assert {len(line.split()[-1]) for line in long} == {30_000}


def test_a_log_file_that_cannot_be_written_ends_the_command_with_a_line(start_worker, tmp_path):
    worker = start_worker("file_processing", "--log-file", str(tmp_path / "nowhere" / "log"))

    assert worker.process.wait(timeout=60) == 1

    told = worker.log.read_text()
    assert "cannot be written: No such file or directory. Name another one with --log-file" in told
    assert "Traceback" not in told


def test_a_reloading_worker_starts_anew_after_the_job_that_runs(
    start_worker, shop, job_factory, version, tmp_path
):
    folder, environment = shop
    write(folder / "shop" / "tasks.py", VERSION.format(version=1))
    worker = start_worker("file_processing", "--reload", **environment)
    begun, release = tmp_path / "begun", tmp_path / "release"
    running = job_factory(task="shop.tasks.version", args=[str(begun), str(release)])
    wait_until(begun.exists)

    write(folder / "shop" / "tasks.py", VERSION.format(version=2))
    wait_until(lambda: "tasks.py has changed" in worker.log.read_text())
    wait_until(lambda: "warm shut down" in worker.log.read_text())
    release.touch()

    assert running.wait(timeout=60).result == 1
    assert running.attempts.count() == 1
    assert version() == 2
    assert worker.stop() == 0
    assert not Worker.objects.exists()


def test_a_reloading_worker_outlives_code_that_cannot_be_imported(start_worker, shop, version):
    folder, environment = shop
    path = folder / "shop" / "tasks.py"
    write(path, VERSION.format(version=1))
    worker = start_worker("file_processing", "--reload", **environment)
    assert version() == 1

    write(path, "def broken(:")
    wait_until(lambda: "It ended with exit code 1" in worker.log.read_text())
    assert "shop.tasks cannot be imported: SyntaxError" in worker.log.read_text()
    write(path, VERSION.format(version=3))

    assert version() == 3


def test_a_reloading_worker_that_waits_for_a_change_heeds_a_signal(start_worker, shop):
    folder, environment = shop
    write(folder / "shop" / "tasks.py", "1 / 0")
    worker = start_worker("file_processing", "--reload", **environment)
    wait_until(lambda: "It ended with exit code 1" in worker.log.read_text())

    assert worker.stop() == 1


def test_what_a_reloading_process_runs_dies_with_it(start_worker):
    worker = start_worker("file_processing", "--reload")
    wait_until(lambda: Worker.objects.exists())
    pid = Worker.objects.get().pid
    assert pid != worker.pid

    worker.kill()

    wait_until(lambda: identity(pid) is None)


def test_reloading_ends_with_what_it_runs(start_worker):
    worker = start_worker("file_processing", "--reload", "--burst")

    assert worker.process.wait(timeout=60) == 0


def test_reloading_is_refused_in_production(start_worker, shop):
    folder, environment = shop
    with (folder / "shop_settings.py").open("a") as settings:
        settings.write("DEBUG = False\n")

    worker = start_worker("file_processing", "--reload", **environment)

    assert worker.process.wait(timeout=60) == 1
    assert "CommandError: --reload is for development, but DEBUG is False" in worker.log.read_text()


def test_rqstats_of_django_rq_works_beside_us(start_worker):
    tasks.add.enqueue(1)

    command = start_worker("--json", command="rqstats")

    assert command.process.wait(timeout=60) == 0
    queues = {queue["name"]: queue for queue in json.loads(command.log.read_text())["queues"]}
    assert queues["file_processing"]["jobs"] == 1
