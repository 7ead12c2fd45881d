"""Tiny tasks with telling names."""

import asyncio
import hashlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any

from asgiref.sync import sync_to_async
from django.db import connection, transaction
from django.utils import translation
from rq import Retry as PlainRetry

from django_jobs import Elsewhere, Retry, current_job, progress, task
from django_jobs.models import Queue

logger = logging.getLogger(__name__)


def undeclared(number: int) -> int:
    return number


@task(queue="file_processing")
def add(left: int, right: int = 0) -> int:
    return left + right


@task(queue="file_processing")
def echo(*args: Any, **kwargs: Any) -> list[Any]:
    return [args, kwargs]


@task(queue="file_processing")
def first(value: Any) -> Any:
    return value


@task(queue="file_processing")
def read_file(file_id: int, folder: str) -> str:
    """Fail until somebody has put the file there."""
    return Path(folder, f"{file_id}.txt").read_text()


@task(queue="file_processing")
def enqueue_another(number: int) -> str:
    return str(add.enqueue(number).pk)


@task(queue="file_processing")
def fail(message: str = "broken") -> None:
    raise ValueError(message)


@task(queue="file_processing")
def log_in(user: str, password: str) -> None:
    """Tell the password wherever one can."""
    logger.info("Authorization: Basic %s", password)
    progress.update(50, message=f"password={password}")
    raise ValueError(f"postgres://{user}:{password}@db is not reachable")


def sign_in(user: str, password: str) -> None:
    """Declared nowhere."""


@task(queue="file_processing", retry=Retry(max=2, interval=0))
def fail_until(path: str, successes_from: int) -> int:
    """Fail until it is called for the `successes_from`th time; calls are counted in the file `path`."""
    calls = record(path, "called")
    if calls < successes_from:
        raise ValueError(f"call {calls}")
    return calls


@task(queue="file_processing")
def tell(path: str) -> None:
    """Log and report progress, then wait until the file `path` exists."""
    progress.declare("reading", "writing")
    logger.info("reading begins")
    progress.update(100, stage="reading")
    progress.update(50, stage="writing", message="half")
    while not Path(path).exists():
        time.sleep(0.02)


@task(queue="file_processing")
def announce(*stages: str) -> None:
    """Complete the first of the stages announced."""
    progress.declare(*stages)
    progress.update(100, stage=stages[0])


@task(queue="file_processing")
def progress_and_fail(percent: int) -> None:
    progress.update(percent, stage="copying", message="so far")
    raise ValueError("no further")


@task(queue="file_processing")
def tell_in_a_transaction(percent: int, path: str) -> None:
    """Report progress in a transaction that is rolled back as soon as the file `path` exists."""
    with transaction.atomic():
        Queue.objects.create(name="rolled back")
        progress.update(percent)
        while not Path(path).exists():
            time.sleep(0.02)
        raise ValueError("rolled back")


@task(queue="file_processing")
def count_up(to: int) -> None:
    for number in range(to + 1):
        progress.update(100 * number / to, stage="counting", message=str(number))


@task(queue="file_processing")
def hold(path: str, release: str) -> str:
    """Record the start in the file `path`, wait until the file `release` exists, record the end."""
    record(path, f"started {os.getpid()}")
    while not Path(release).exists():
        time.sleep(0.02)
    record(path, "ended")
    return "released"


@task(queue="file_processing")
def log_and_hold(line: str, path: str, release: str) -> str:
    logger.info(line)
    return hold(path, release)


@task(queue="file_processing", idempotent=True)
def hold_idempotent(path: str, release: str) -> str:
    return hold(path, release)


@task(queue="file_processing")
def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@task(queue="file_processing", timeout=1)
def outlast_its_time() -> None:
    while True:
        time.sleep(0.02)


@task(queue="file_processing")
def heed_no_signal(seconds: int) -> None:
    """Let no time limit through, as code in C does that never returns to Python."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    time.sleep(seconds)


@task(queue="file_processing")
def return_a_set() -> set[int]:
    return {1}


@task(queue="file_processing")
def return_much(characters: int) -> str:
    return "x" * characters


@task(queue="file_processing")
def exit_with(code: int) -> None:
    logger.info("leaving")
    sys.exit(code)


@task(queue="file_processing")
def log_lines(count: int, line: str) -> None:
    for number in range(count):
        logger.info("%s %s", number, line)


@task(queue="file_processing")
def fail_deep(depth: int) -> None:
    """Fail with a traceback of `depth` frames, no two alike, so that none are folded."""
    if depth == 0:
        raise ValueError("at the bottom")
    (fail_deep.function if depth % 2 else _fail_deep)(depth - 1)


def _fail_deep(depth: int) -> None:
    fail_deep.function(depth)


@task(queue="file_processing")
def fail_unprintably() -> None:
    raise Unprintable


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@task(queue="file_processing")
def fail_from_a_cause() -> None:
    try:
        fail("the cause")
    except ValueError as error:
        raise LookupError("the effect") from error


@task(queue="file_processing")
def who_am_i() -> list[Any]:
    job = current_job()
    return [str(job.pk), job.attempt] if job else []


@task(queue="file_processing")
def return_text(text: str) -> str:
    return text.encode().decode("unicode_escape")


@task(queue="file_processing")
def fail_with_text(text: str) -> None:
    """Log and raise what the escapes in `text` stand for, which no argument may hold."""
    message = text.encode().decode("unicode_escape")
    logger.info("about to fail: %s", message)
    raise ValueError(message)


@task(queue="file_processing")
def break_its_connection() -> None:
    """Lose the connection as a restart of the server does, and fail on it."""
    connection.connection.close()
    Queue.objects.exists()


@task(queue="file_processing")
def leave_a_transaction_open(name: str) -> None:
    transaction.set_autocommit(False)
    Queue.objects.create(name=name)


@task(queue="file_processing")
def write_and_fail(name: str) -> None:
    with transaction.atomic():
        Queue.objects.create(name=name)
        raise ValueError(name)


@task(queue="file_processing")
def enqueue_itself(times: int) -> None:
    if times > 1:
        enqueue_itself.enqueue(times - 1)


@task(queue="file_processing")
def be_interrupted() -> None:
    raise KeyboardInterrupt


@task(queue="file_processing")
def create_queue_twice(name: str) -> None:
    """Fail at a constraint, as a task without a transaction of its own."""
    Queue.objects.create(name=name)
    Queue.objects.create(name=name)


@task(queue="file_processing")
def create_queue_and_fail(name: str) -> None:
    Queue.objects.create(name=name)
    raise ValueError(name)


@task(queue="file_processing")
def run_sql(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


@task(queue="file_processing")
def commit_durably(name: str) -> None:
    with transaction.atomic(durable=True):
        Queue.objects.create(name=name)


@task(queue="file_processing")
async def add_by_another(number: int) -> str:
    """Enqueue a job in async code, which uses the ORM as well."""
    await Queue.objects.acreate(name=f"queue {number}")
    return str((await add.aenqueue(number)).pk)


def ask_again(path: str) -> Any:
    """Have RQ run it once more, by its own means."""
    record(path, "asked")
    return PlainRetry(max=1, interval=0)


def tell_success(job: Any, connection: Any, result: Any) -> None:
    """A callback of plain RQ."""
    record(job.args[0], f"success {result}")


def tell_failure(job: Any, connection: Any, kind: type, error: Exception, traceback: Any) -> None:
    """A callback of plain RQ."""
    record(job.args[0], f"failure {kind.__name__}")


@task(queue="file_processing")
async def run_a_loop_in_a_loop() -> None:
    """What people write who have the wrong end of async code."""
    coroutine = asyncio.sleep(0)
    try:
        asyncio.run(coroutine)
    finally:
        coroutine.close()


@task(queue="file_processing")
async def wait_in_a_loop_for_the_loop() -> None:
    asyncio.get_running_loop().run_until_complete(asyncio.get_running_loop().create_future())


@task(queue="file_processing")
async def query_in_a_loop() -> bool:
    return Queue.objects.exists()


@task(queue="file_processing")
def use_a_closed_loop() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    loop.call_soon(print)


@task(queue="file_processing")
def ask_for_another(most: int, interval: float = 0) -> None:
    progress.update(30, message="so far")
    raise Retry(max=most, interval=interval)


@task(queue="file_processing")
def return_a_retry(most: int, interval: float = 0) -> Retry:
    progress.update(30, message="so far")
    return Retry(max=most, interval=interval)


@task(queue="file_processing")
def ask_for_another_from_a_cause(most: int) -> None:
    try:
        fail("the cause")
    except ValueError as error:
        raise Retry(max=most) from error


@task(queue="file_processing")
def ask_for_another_while_handling(most: int) -> None:
    try:
        fail("the cause")
    except ValueError:
        raise Retry(max=most)  # noqa: B904 - As many write it.


@task(queue="file_processing")
def hand_over(seconds: float = 3600) -> Elsewhere:
    logger.info("handed over")
    progress.update(100, stage="sending")
    progress.update(20, stage="waiting", message="sent")
    return Elsewhere(timeout=seconds)


@task(queue="file_processing")
async def add_slowly(left: int, right: int) -> int:
    await asyncio.sleep(0.01)
    return left + right


@task(queue="file_processing")
async def fail_asynchronously(message: str) -> None:
    await asyncio.sleep(0)
    raise ValueError(message)


@task(queue="file_processing")
async def hold_asynchronously(path: str, release: str) -> str:
    """Tell the job and its progress, wait until the file `release` exists, record what ended it."""
    progress.update(40, message=f"attempt {current_job().attempt}")  # type: ignore[union-attr]
    try:
        while not Path(release).exists():
            await asyncio.sleep(0.02)
    except BaseException as error:
        record(path, type(error).__name__)
        raise
    finally:
        await Queue.objects.aget_or_create(name="cleaned up")
        record(path, "cleaned up")
    return "released"


@task(queue="file_processing")
async def sleep_asynchronously(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


@task(queue="file_processing")
async def meet(path: str, count: int) -> int:
    """Wait in this process, whose pid is returned, until so many have come to the file `path`."""
    record(path, "came")
    while len(Path(path).read_text().splitlines()) < count:
        await asyncio.sleep(0.02)
    return os.getpid()


@task(queue="file_processing")
async def tell_as(name: str, times: int) -> list[str]:
    """Log, tell the progress and ask for the job, on the loop and in threads, while others do the same."""

    def tell(where: str) -> str:
        logger.info("%s %s", name, where)
        progress.update(100, stage=f"{name} {where}")
        return str(current_job().pk)  # type: ignore[union-attr]

    seen = set()
    for _ in range(times):
        seen |= {
            tell("loop"),
            await sync_to_async(tell)("own thread"),
            await asyncio.to_thread(tell, "other"),
        }
        seen |= set(await asyncio.gather(asyncio.create_task(sync_to_async(tell)("task"))))
        await asyncio.sleep(0.001)
    return sorted(seen)


@task(queue="file_processing")
async def create_queues_in_a_transaction(name: str, fails: bool) -> list[Any]:
    """Write in a transaction of its own, in one thread, while others do the same."""

    @sync_to_async
    def create() -> tuple[int, bool]:
        with transaction.atomic():
            Queue.objects.create(name=f"{name} 1")
            time.sleep(0.02)
            Queue.objects.create(name=f"{name} 2")
            if fails:
                raise ValueError(name)
            return threading.get_ident(), connection.in_atomic_block

    await Queue.objects.acreate(name=name)
    thread, _ = await create()
    return [thread, await Queue.objects.filter(name__startswith=name).acount()]


@task(queue="file_processing")
async def leave_the_language(language: str) -> str:
    """Tell the language found, and leave another one in the thread."""

    @sync_to_async
    def leave() -> str:
        found = translation.get_language()
        translation.activate(language)
        return found

    return await leave()


@task(queue="file_processing")
def leave_the_language_in_its_thread(language: str) -> str:
    found = translation.get_language()
    translation.activate(language)
    return found


@task(queue="file_processing")
async def go_on_when_canceled(release: str) -> None:
    while not Path(release).exists():
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0.02)


@task(queue="file_processing")
async def create_in_a_transaction_and_fail(name: str) -> None:
    @sync_to_async
    @transaction.atomic
    def create(name: str) -> None:
        Queue.objects.create(name=name)
        raise ValueError(name)

    await Queue.objects.acreate(name=f"before {name}")
    await create(name)


@task(queue="file_processing")
async def count_queues_in_async_steps(names: list[str]) -> list[Any]:
    """Use the ORM and tell the progress as async code does."""
    async for name in progress.track(names, stage="creating"):
        await Queue.objects.acreate(name=name)
    found = [queue.name async for queue in Queue.objects.order_by("name")]
    return [found, (await Queue.objects.aget(name=names[0])).paused, str(current_job().pk)]  # type: ignore[union-attr]


def _measured(function: Any) -> Any:
    """A decorator that knows nothing of `async def`."""

    @wraps(function)
    def measure(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return measure


@task(queue="file_processing")
@_measured
async def add_decorated(left: int, right: int) -> int:
    await asyncio.sleep(0)
    return left + right


@task(queue="file_processing", name="tests.tasks.name_before_it_was_changed")
def named_otherwise(number: int) -> int:
    return number


@task(queue="file_processing")
def track_up(to: int) -> None:
    for _ in progress.track(range(to), stage="counting"):
        pass


@task(queue="file_processing")
def hold_deaf(path: str, release: str) -> str:
    """Hold, and heed no signal that a process may ignore."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    return hold(path, release)


@task(queue="file_processing")
def hold_with_another_process(path: str, release: str) -> str:
    """Hold, beside a process that was forked and outlives this one."""
    if os.fork() == 0:
        time.sleep(300)
        os._exit(0)
    return hold(path, release)


@task(queue="file_processing")
def note(path: str, line: str) -> None:
    record(path, line)


@task(queue="file_processing", idempotent=True)
def beat(path: str, release: str) -> None:
    """Record this process and the time again and again, until the file `release` exists."""
    while not Path(release).exists():
        record(path, f"{os.getpid()} {time.monotonic()}")
        time.sleep(0.02)


@task(queue="file_processing")
def leave_marks(path: str, label: str, fails_at: int = 0) -> None:
    """Record where each attempt begins and ends; fail at the end of attempt number `fails_at`."""
    attempt = current_job().attempt  # type: ignore[union-attr]
    record(path, f"{label} {attempt} began")
    record(path, f"{label} {attempt} ended")
    if attempt == fails_at:
        raise ValueError("as it was told")


def record(path: str, line: str) -> int:
    """Append a line to a file that no store knows, and count its lines."""
    with Path(path).open("a+") as file:
        file.write(f"{line}\n")
        file.flush()
        file.seek(0)
        return len(file.readlines())


@task(queue="file_processing")
def allocate(mb: int) -> int:
    return len(bytearray(mb * 1024 * 1024))


@task(queue="file_processing")
def keep_memory(mb: int) -> int:
    """Use more memory from now on, in this process, whose pid is returned."""
    _kept.append(b"x" * (mb * 1024 * 1024))
    return os.getpid()


_kept: list[bytes] = []


@task(queue="file_processing", memory_mb=100)
def allocate_at_most_100_mb(mb: int) -> int:
    progress.update(10)
    return allocate(mb)


@task(queue="file_processing", memory_mb=100)
def run_out_of_memory_by_a_thread_pool(mb: int) -> int:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(allocate, mb).result()


@task(queue="file_processing", memory_mb=100)
async def allocate_asynchronously(mb: int) -> int:
    await asyncio.sleep(0)
    return allocate(mb)


@task(queue="file_processing", memory_mb=30)
def start_threads(count: int) -> None:
    """Each of them wants memory for its stack."""
    release = threading.Event()
    threads = [threading.Thread(target=release.wait, daemon=True) for _ in range(count)]
    try:
        for thread in threads:
            thread.start()
    finally:
        release.set()


@task(queue="file_processing", memory_mb=100)
def do_with_less_memory(mb: int) -> int:
    try:
        return allocate(mb)
    except MemoryError:
        return allocate(1)


@task(queue="file_processing")
def compute(cpu_seconds: float) -> str:
    until = time.process_time() + cpu_seconds
    while time.process_time() < until:
        pass
    return "computed"


@task(queue="file_processing", cpu_seconds=0.2)
def compute_for_a_fifth_of_a_second(cpu_seconds: float) -> str:
    return compute(cpu_seconds)


@task(queue="file_processing", cpu_seconds=0.2)
def sleep_on(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


@task(queue="file_processing", cpu_seconds=0.2)
def derive_keys(path: str, iterations: int) -> None:
    """Compute in C, where no exception strikes."""
    while True:
        hashlib.pbkdf2_hmac("sha256", b"password", b"salt", iterations)
        record(path, "derived")


@task(queue="file_processing", cpu_seconds=0.2)
def compute_in_a_thread(seconds: float) -> None:
    """Wait for it as `Future.result` does, without looking up."""
    ended, until = threading.Event(), time.process_time() + seconds

    def compute_on() -> None:
        while time.process_time() < until and not ended.is_set():
            pass

    thread = threading.Thread(target=compute_on, daemon=True)
    try:
        thread.start()
        thread.join()
    finally:
        ended.set()


@task(queue="file_processing", cpu_seconds=0.2)
def compute_in_a_process(cpu_seconds: float) -> str:
    code = f"import time\nwhile time.process_time() < {cpu_seconds}: pass\nprint('computed')"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@task(queue="file_processing", cpu_seconds=0.2)
async def compute_between_awaits(cpu_seconds: float) -> None:
    until = time.process_time() + cpu_seconds
    while time.process_time() < until:
        await asyncio.sleep(0)
