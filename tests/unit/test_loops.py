"""Coroutines on the loop of this process: results, threads, interruptions, forks, the end of the process."""

import asyncio
import inspect
import itertools
import signal
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.utils import translation

from django_jobs import loops
from tests.conftest import ROOT, Stopwatch, wait_until


class Limit(Exception):
    pass


@pytest.fixture(autouse=True)
def _long_grace(monkeypatch):
    """What ends in its grace does so even where the machine stands still for seconds."""
    monkeypatch.setattr(loops, "GRACE_SECONDS", 50)


@pytest.fixture
def short_grace(_long_grace, monkeypatch):
    monkeypatch.setattr(loops, "GRACE_SECONDS", 0.2)


@contextmanager
def limit(seconds, *, again_after_seconds=30):
    """Raise `Limit` in this thread after so many seconds, as the time limit of a job does."""

    def strike(*args):
        raise Limit

    handler = signal.signal(signal.SIGALRM, strike)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds, again_after_seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, handler)


def interrupt():
    """Have `Limit` raised in the thread that waits for the coroutine, as soon as this coroutine awaits."""
    loop = asyncio.get_running_loop()
    loop.call_soon(signal.pthread_kill, threading.main_thread().ident, signal.SIGALRM)


@pytest.fixture(autouse=True)
def _bounded():
    """A coroutine that never ends fails its test."""
    with limit(60):
        yield


@contextmanager
def limit_at_line(number):
    """Raise `Limit` before the so-manieth line of `loops` and asyncio that this thread executes to wait."""
    lines = itertools.count(1)
    files = {loops.__file__, asyncio.base_events.__file__, asyncio.selector_events.__file__}

    def trace(frame, event, arg):
        # Not where tracing strikes and a signal cannot: between the last line of a block and its exit.
        if frame.f_code.co_filename not in files or frame.f_code.co_name in ("run", "_running_loop"):
            return None
        if event == "line" and next(lines) == number:
            raise Limit
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


@contextmanager
def lasting_less_than(seconds):
    with Stopwatch() as watch:
        yield
    assert watch.seconds < seconds


def python(code):
    """Run a program of its own, for at most a minute."""
    return subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


async def double(number):
    await asyncio.sleep(0)
    return number * 2


def in_a_thread(function):
    """Call it in a thread that is not the main one; what it returned or raised, once it did."""
    return ThreadPoolExecutor(1).submit(function)


# Result, thread and context


def test_the_result_comes_back():
    assert loops.run(double(21)) == 42


def test_an_exception_comes_back_with_the_place_it_was_raised_at():
    async def fail():
        await double(1)
        raise LookupError("page 7")

    with pytest.raises(LookupError, match="page 7") as raised:
        loops.run(fail())

    assert traceback.extract_tb(raised.tb)[-1].name == "fail"
    assert raised.value.__context__ is None


def test_the_coroutine_runs_on_another_thread_and_what_it_calls_runs_in_ours():
    async def threads():
        called = [await sync_to_async(threading.get_ident)() for _ in range(3)]
        gathered = await asyncio.gather(*[sync_to_async(threading.get_ident)() for _ in range(3)])
        return threading.get_ident(), {*called, *gathered}

    own, called = loops.run(threads())

    assert own != threading.get_ident()
    assert called == {threading.get_ident()}


def test_context_variables_and_the_language_of_the_caller_are_seen():
    variable = ContextVar("variable")

    async def see():
        return variable.get(), translation.get_language()

    variable.set("ours")
    with translation.override("de"):
        seen = loops.run(see())

    assert seen == ("ours", "de")


def test_what_belongs_to_the_loop_serves_the_next_coroutine():
    async def make():
        return asyncio.get_running_loop(), asyncio.create_task(asyncio.sleep(0.05, "kept"))

    async def use(task):
        return asyncio.get_running_loop(), await task

    loop, task = loops.run(make())

    assert loops.run(use(task)) == (loop, "kept")


def test_threads_run_coroutines_at_once_and_each_does_its_own_work():
    meeting = threading.Barrier(4)

    async def meet():
        await sync_to_async(meeting.wait)(60)
        return await sync_to_async(threading.get_ident)()

    def run():
        return loops.run(meet()), threading.get_ident()

    with ThreadPoolExecutor(4) as pool:
        threads = [future.result() for future in [pool.submit(run) for _ in range(4)]]

    assert len(set(threads)) == 4
    assert all(worked_in == called_from for worked_in, called_from in threads)


def test_threads_that_need_the_first_loop_at_once_share_it(monkeypatch):
    async def loop():
        return asyncio.get_running_loop()

    def make_slowly():
        time.sleep(0.05)
        return asyncio.SelectorEventLoop()

    monkeypatch.setattr(loops, "_loop", None)
    monkeypatch.setattr(asyncio, "new_event_loop", make_slowly)

    with ThreadPoolExecutor(4) as pool:
        seen = [future.result() for future in [pool.submit(lambda: loops.run(loop())) for _ in range(4)]]

    assert len(set(seen)) == 1


def test_a_canceled_call_is_not_made_and_the_end_of_a_running_one_is_ignored(caplog):
    made, begun, release = [], threading.Event(), threading.Event()

    def hold():
        begun.set()
        release.wait(30)

    async def work():
        running = asyncio.create_task(sync_to_async(hold)())
        waiting = asyncio.create_task(sync_to_async(made.append)("waiting"))
        while not begun.is_set():
            await asyncio.sleep(0.01)
        running.cancel()
        waiting.cancel()
        await asyncio.sleep(0.01)
        release.set()
        await asyncio.wait([running, waiting])
        await sync_to_async(made.append)("after")

    loops.run(work())

    assert made == ["after"]
    assert caplog.text == ""


# Calls from within


def test_a_call_inside_a_running_loop_says_to_await():
    async def run_another():
        loops.run(double(1))

    told = r"double\(\) cannot be run .* await it"
    with pytest.raises(RuntimeError, match=told):
        loops.run(run_another())
    with pytest.raises(RuntimeError, match=told):
        asyncio.run(run_another())


def test_a_function_that_a_coroutine_calls_may_run_another_coroutine():
    async def outer():
        ours = await sync_to_async(lambda: loops.run(double(1)))()
        return ours + await sync_to_async(async_to_sync(double))(2)

    assert loops.run(outer()) == 6


def test_a_coroutine_may_be_run_while_asgiref_runs_one_in_this_thread():
    async def thread():
        return await sync_to_async(threading.get_ident)()

    async def outer():
        return await sync_to_async(lambda: loops.run(thread()))()

    assert async_to_sync(outer)() == threading.get_ident()


def test_another_loop_in_the_waiting_thread_is_refused():
    async def outer():
        await sync_to_async(lambda: asyncio.run(sync_to_async(len)("")))()

    with pytest.raises(RuntimeError, match=r"cannot wait for itself.* use async_to_sync\(\)"):
        loops.run(outer())


# Ends that are not exceptions of the usual kind


def test_a_coroutine_that_cancels_itself_failed():
    async def cancel_itself():
        asyncio.current_task().cancel()
        await asyncio.sleep(60)

    with pytest.raises(RuntimeError, match=r"cancel_itself\(\) ended as canceled") as raised:
        loops.run(cancel_itself())

    assert isinstance(raised.value.__cause__, asyncio.CancelledError)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_an_exit_is_for_the_caller_and_leaves_the_loop_running(kind):
    async def leave():
        raise kind("enough")

    async def leave_in_a_task():
        await asyncio.create_task(leave())

    async def leave_in_our_thread():
        def stop():
            raise kind("enough")

        await sync_to_async(stop)()

    for coroutine in [leave, leave_in_a_task, leave_in_our_thread]:
        with pytest.raises(kind, match="enough"):
            loops.run(coroutine())

    assert loops.run(double(1)) == 2


# Interruptions


def test_an_interruption_cancels_the_coroutine_and_waits_for_its_end():
    ended_in = []

    async def wait():
        try:
            interrupt()
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)
            ended_in.append(await sync_to_async(threading.get_ident)())

    with lasting_less_than(20), pytest.raises(Limit):
        loops.run(wait())

    assert ended_in == [threading.get_ident()]


def test_an_interruption_of_a_call_is_raised_by_that_call():
    caught = []

    async def work():
        try:
            await sync_to_async(signal.raise_signal)(signal.SIGALRM)
        except Limit as error:
            caught.append(error)
            raise

    with pytest.raises(Limit) as raised:
        loops.run(work())

    assert caught == [raised.value]


def test_a_coroutine_that_goes_on_when_canceled_is_left_behind(short_grace, caplog):
    release, then = threading.Event(), []

    async def go_on():
        interrupt()
        while not release.is_set():
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)
        try:
            await sync_to_async(len)("")
        except RuntimeError as error:
            then.append(str(error))

    with lasting_less_than(20), pytest.raises(Limit):
        loops.run(go_on())
    release.set()

    assert "go_on() could not be stopped; it is left behind." in caplog.text
    wait_until(lambda: then)
    assert "go_on() is over; nothing can be done in its thread" in then[0]


def test_a_coroutine_that_never_awaits_is_left_behind_and_the_next_one_runs(short_grace):
    release = threading.Event()

    async def compute():
        signal.pthread_kill(threading.main_thread().ident, signal.SIGALRM)
        while not release.is_set():
            pass

    try:
        with lasting_less_than(20), pytest.raises(Limit):
            loops.run(compute())

        assert async_to_sync(double)(1) == 2
        assert loops.run(double(2)) == 4
    finally:
        release.set()


def test_the_grace_ends_although_calls_keep_coming(short_grace):
    deadline = time.monotonic() + 50

    async def call_on():
        with suppress(RuntimeError):  # Raised once it is left behind.
            while time.monotonic() < deadline:
                await sync_to_async(time.sleep)(0.01)

    async def wait():
        try:
            interrupt()
            await asyncio.sleep(60)
        finally:
            await asyncio.gather(call_on(), call_on(), call_on())

    with lasting_less_than(20), pytest.raises(Limit):
        loops.run(wait())


def test_a_second_interruption_ends_the_grace():
    release, waiting_thread = threading.Event(), threading.get_ident()

    async def go_on():
        interrupt()
        while not release.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                # So the grace has begun, and in a moment the thread waits for its end.
                loop = asyncio.get_running_loop()
                loop.call_later(0.05, signal.pthread_kill, waiting_thread, signal.SIGALRM)

    try:
        with lasting_less_than(20), pytest.raises(Limit) as raised:
            loops.run(go_on())

        assert isinstance(raised.value.__context__, Limit)
    finally:
        release.set()


def test_an_interruption_is_noticed_that_woke_another_thread():
    loops.run(double(1))  # Now there is another thread, which does not inherit what is blocked here.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])

    try:
        with lasting_less_than(20), pytest.raises(Limit), limit(0.1):
            loops.run(asyncio.sleep(60))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_what_a_canceled_coroutine_raises_is_logged(caplog):
    async def fail_at_the_end():
        try:
            interrupt()
            await asyncio.sleep(60)
        finally:
            raise LookupError("no page 7")

    with pytest.raises(Limit):
        loops.run(fail_at_the_end())

    assert "fail_at_the_end() raised when it was canceled." in caplog.text
    assert "LookupError: no page 7" in caplog.text


def test_an_interruption_at_any_line_ends_the_coroutine_at_once():
    async def work():
        await sync_to_async(len)("")
        await asyncio.sleep(0)
        return "finished"

    loops.run(double(1))
    results = []
    with lasting_less_than(2.5):
        while "finished" not in results:
            coroutine = work()
            with suppress(Limit), limit_at_line(len(results) + 1):
                results.append("interrupted")
                results[-1] = loops.run(coroutine)

            # It ended, or was not even begun.
            assert inspect.getcoroutinestate(coroutine) in ("CORO_CLOSED", "CORO_CREATED"), len(results)
            coroutine.close()

    assert len(results) > 30


# Forks


FORK = """
import asyncio, os, sys
from asgiref.sync import sync_to_async
from django_jobs import loops

async def double(number):
    await asyncio.sleep(0)
    return await sync_to_async(lambda: number * 2)()

{before}
pid = os.fork()
assert loops.run(double(4)) == 8
if pid:
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert loops.run(double(5)) == 10
    sys.exit(status)
"""


@pytest.mark.parametrize(
    "before",
    [
        "assert loops.run(double(3)) == 6",
        "asyncio.run(sync_to_async(len)(''))",  # Leaves asgiref with a thread that the child does not have.
        "loops._lock.acquire(); os.register_at_fork(after_in_parent=loops._lock.release)",
    ],
    ids=["after a coroutine", "after asgiref's own thread", "while a loop is started"],
)
def test_coroutines_run_in_a_forked_child_and_in_its_parent(before):
    done = python(FORK.format(before=before))

    assert (done.returncode, done.stderr) == (0, "")


# The end of the process


def test_generators_and_tasks_end_with_the_process():
    done = python("""
import asyncio
from django_jobs import loops

async def count():
    try:
        yield 1
    finally:
        await asyncio.sleep(0)
        print("generator ended")

async def wait():
    try:
        await asyncio.sleep(60)
    finally:
        print("task ended")

async def begin():
    left.append(asyncio.create_task(wait()))
    left.append(count())
    await anext(left[-1])

left = []
loops.run(begin())
print("end of the program")
""")

    assert done.stdout.splitlines() == ["end of the program", "task ended", "generator ended"]
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("going_on", ["pass", "await pause()"], ids=["computing", "heedless of cancellation"])
def test_a_process_ends_although_a_task_goes_on(going_on):
    with lasting_less_than(30):  # Instead of for ever.
        done = python(f"""
import asyncio
from contextlib import suppress
from threading import Event
from django_jobs import loops

async def pause():
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(0.01)

async def go_on():
    await asyncio.sleep(0.1)
    begun.set()
    while True:
        {going_on}

async def begin():
    left.append(asyncio.create_task(go_on()))

left, begun = [], Event()
loops.run(begin())
begun.wait()
""")

    assert (done.returncode, done.stderr) == (0, "")


# Interruptions where no signal comes


def test_a_thread_is_interrupted_by_another_one_when_the_coroutine_has_ended():
    interruption, waits, ended = loops.Interruption(), threading.Event(), []

    async def work():
        try:
            waits.set()
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            ended.append(await sync_to_async(threading.get_ident)())

    thread = in_a_thread(lambda: loops.run(work(), interruption=interruption))
    assert waits.wait(60)
    interruption.strike(Limit("first"))
    interruption.strike(Limit("second"))

    with pytest.raises(Limit, match="first"):
        thread.result(60)
    assert len(ended) == 1


def test_a_thread_is_interrupted_when_its_time_is_over_also_while_there_is_work_all_the_time():
    interruption = loops.Interruption()

    async def work():
        while True:
            await sync_to_async(time.sleep)(0.001)

    def wait():
        with interruption.striking_after(0.05, lambda: Limit("over")):
            loops.run(work(), interruption=interruption)

    with pytest.raises(Limit, match="over"):
        in_a_thread(wait).result(60)


def test_a_time_that_is_not_over_does_not_strike_afterwards():
    interruption = loops.Interruption()
    with interruption.striking_after(60, Limit):
        assert loops.run(double(1), interruption=interruption) == 2
        assert interruption.seconds_left() <= 60

    assert interruption.seconds_left() == threading.TIMEOUT_MAX


def test_a_strike_that_comes_first_has_nothing_begin():
    interruption, begun = loops.Interruption(), []
    interruption.strike(Limit())

    async def work():
        begun.append(True)

    with pytest.raises(Limit):
        loops.run(work(), interruption=interruption)
    assert not begun


def test_a_coroutine_that_was_interrupted_before_its_first_step_is_closed():
    interruption, loop_is_busy, release = loops.Interruption(), threading.Event(), threading.Event()

    async def keep_the_loop_busy():
        loop_is_busy.set()
        release.wait(60)

    coroutine = double(1)
    busy = in_a_thread(lambda: loops.run(keep_the_loop_busy()))
    assert loop_is_busy.wait(60)
    waiting = in_a_thread(lambda: loops.run(coroutine, interruption=interruption))
    wait_until(lambda: interruption._wake is not loops._nothing)
    interruption.strike(Limit())
    release.set()
    busy.result(60)

    with pytest.raises(Limit):
        waiting.result(60)
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED


def test_what_the_thread_does_for_the_coroutine_is_not_interrupted_but_what_follows():
    interruption, steps = loops.Interruption(), []

    def step(name):
        interruption.strike(Limit())
        time.sleep(0.05)
        steps.append(name)

    async def work():
        await sync_to_async(step)("first")
        await asyncio.sleep(60)
        steps.append("never")

    with pytest.raises(Limit):
        in_a_thread(lambda: loops.run(work(), interruption=interruption)).result(60)
    assert steps == ["first"]


def test_one_of_many_threads_is_interrupted_and_the_others_go_on():
    interruptions = [loops.Interruption() for _ in range(5)]
    go = threading.Event()

    async def work(number):
        while not go.is_set():
            await asyncio.sleep(0.005)
        return number

    threads = [
        in_a_thread(lambda number=number: loops.run(work(number), interruption=interruptions[number]))
        for number in range(5)
    ]
    interruptions[2].strike(Limit())

    with pytest.raises(Limit):
        threads[2].result(60)
    go.set()
    assert [thread.result(60) for thread in threads if thread is not threads[2]] == [0, 1, 3, 4]


def test_what_is_left_behind_is_counted_until_it_ends(short_grace, monkeypatch):
    monkeypatch.setattr(loops, "_left_behind", [])
    interruption, release, computes = loops.Interruption(), threading.Event(), threading.Event()

    async def block_the_loop():
        computes.set()
        release.wait(60)

    thread = in_a_thread(lambda: loops.run(block_the_loop(), interruption=interruption))
    assert computes.wait(60)
    interruption.strike(Limit())

    with pytest.raises(Limit):
        thread.result(60)
    assert loops.left_behind() == 1
    assert loops.run(double(1)) == 2
    release.set()
    wait_until(lambda: loops.left_behind() == 0)
