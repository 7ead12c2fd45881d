"""Seats: what a child runs is seen by its worker, and stays in a file when all of them are gone."""

import itertools
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from uuid import UUID, uuid4

import pytest

from django_jobs.pool.seats import Seats, _Left, begun_of
from tests.conftest import wait_until


@pytest.fixture
def file(tmp_path):
    """A file for seats, and its descriptor."""
    path = tmp_path / "seats"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    yield path, descriptor
    os.close(descriptor)


@pytest.fixture
def seat():
    return Seats(1, 1).of_child(0)[0]


def test_a_seat_tells_what_runs_there_and_since_when(seat):
    job_id = uuid4()
    assert (seat.job_id, seat.runs, seat.ran_seconds) == (None, False, 0)

    with seat.running(job_id, 60):
        assert (seat.job_id, seat.runs) == (job_id, True)
        assert wait_until(lambda: seat.ran_seconds > 0.02)
        assert 0 < seat.deadline.get() - time.monotonic() <= 60
        assert seat.deadline.seconds_over() == 0

    assert (seat.job_id, seat.runs, seat.ran_seconds, seat.deadline.get()) == (job_id, False, 0, 0)
    seat.leave()
    assert seat.job_id is None


def test_a_job_without_a_time_limit_has_no_deadline(seat):
    with seat.running(uuid4(), None):
        assert seat.deadline.get() == 0


def test_a_job_over_its_time_is_seen_to_be(seat):
    with seat.running(uuid4(), 0.01):
        assert wait_until(lambda: seat.deadline.seconds_over() > 0)


def test_a_function_that_fails_leaves_the_seat_as_one_that_ends(seat):
    job_id = uuid4()

    with pytest.raises(LookupError), seat.running(job_id, 60):
        raise LookupError

    assert (seat.job_id, seat.runs, seat.deadline.get()) == (job_id, False, 0)


def test_a_seat_that_is_closed_is_so_until_it_is_left():
    seat, other = Seats(1, 2).of_child(0)

    seat.close()

    assert [each.is_closed for each in (seat, other)] == [True, False]
    with other.running(uuid4(), 60):
        assert [each.is_closed for each in (seat, other)] == [True, False]
    other.leave()
    assert seat.is_closed
    seat.leave()
    assert not seat.is_closed


def test_no_seat_touches_another_or_the_fence():
    seats = Seats(3, 4)
    all_seats = [seat for number in range(3) for seat in seats.of_child(number)]
    ids = [UUID(int=number) for number in range(1, 13)]
    seats.fence.set(5)
    for seat, job_id in zip(all_seats, ids, strict=True):
        for _ in range(seats.remembered + 3):  # Once around.
            with seat.running(job_id, job_id.int):
                seat.deadline.set(job_id.int)
                seat.cpu_deadline.set(job_id.int)
            seat.deadline.set(job_id.int)

    assert [seat.job_id for seat in all_seats] == ids
    assert [seat.deadline.get() for seat in all_seats] == [job_id.int for job_id in ids]
    assert [seat.cpu_deadline.get() for seat in all_seats] == [job_id.int for job_id in ids]
    assert seats.fence.get() == 5
    for seat in all_seats[1:]:
        seat.leave()
    assert [seat.job_id for seat in all_seats] == [ids[0], *[None] * 11]


def test_what_a_forked_process_runs_is_seen(seat):
    job_id = uuid4()
    if (pid := os.fork()) == 0:
        with seat.running(job_id, 60):
            time.sleep(60)
        os._exit(0)

    try:
        wait_until(lambda: seat.runs)
        assert seat.job_id == job_id
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert (seat.job_id, seat.runs) == (job_id, True)


def test_seats_without_a_file_can_be_handed_to_another_process():
    seats = Seats(2, 1)
    again = Seats(2, 1, seats.descriptor)
    job_id = uuid4()

    with seats.of_child(1)[0].running(job_id, None):
        assert (again.of_child(1)[0].job_id, again.of_child(0)[0].job_id) == (job_id, None)
    seats.fence.set(7)
    assert again.fence.get() == 7


def test_what_was_begun_is_in_the_file_before_anything_of_it_runs(file):
    path, descriptor = file
    seat = Seats(1, 2, descriptor).of_child(0)[1]
    job_id = uuid4()

    with seat.running(job_id, 60):
        assert begun_of([job_id, uuid4()], path.read_bytes()) == {job_id}
    seat.leave()
    assert begun_of([job_id, uuid4()], path.read_bytes()) == {job_id}


def test_the_file_tells_of_all_seats_what_they_have_begun_lately(file):
    path, descriptor = file
    seats = Seats(3, 2, descriptor)
    ids = {(number, place): [uuid4() for _ in range(20)] for number in range(3) for place in range(2)}
    for (number, place), begun in ids.items():
        seat = seats.of_child(number)[place]
        run(seat, *begun)

    begun = {job_id for each in ids.values() for job_id in each}
    assert begun_of({*begun, uuid4()}, path.read_bytes()) == begun


def run(seat, *job_ids):
    for job_id in job_ids:
        with seat.running(job_id, None):
            pass
        seat.leave()


@pytest.mark.parametrize("per_child", [1, 1 + 100])
def test_the_file_forgets_what_left_the_seats_of_a_child_first(file, per_child):
    path, descriptor = file
    seats = Seats(2, per_child, descriptor)
    mine, others = [[uuid4() for _ in range(seats.remembered + 50)] for _ in range(2)]
    for job_id, seat in zip(mine, itertools.cycle(seats.of_child(0)[-3:])):
        run(seat, job_id)
    run(seats.of_child(1)[0], *others[:50])

    assert begun_of(mine, path.read_bytes()) == set(mine[50:])
    assert begun_of(others, path.read_bytes()) == set(others[:50])


def test_what_runs_for_long_beside_many_others_is_told_until_and_after_its_end(file):
    path, descriptor = file
    seats = Seats(1, 3, descriptor)
    _, long, short = seats.of_child(0)
    job_id = uuid4()

    with long.running(job_id, None):
        run(short, *(uuid4() for _ in range(2 * seats.remembered)))
        assert begun_of([job_id], path.read_bytes()) == {job_id}
    long.leave()
    run(short, uuid4())

    assert begun_of([job_id], path.read_bytes()) == {job_id}


def test_what_leaves_several_seats_of_a_child_at_once_is_told():
    class SlowMemory(bytearray):
        def __setitem__(self, place, value):
            time.sleep(0.001)  # Another thread runs.
            super().__setitem__(place, value)

    memory, barrier = SlowMemory(16 * 101), Barrier(8)
    left, ids = _Left(memory, 0, 100), [uuid4() for _ in range(80)]

    def note(number):
        barrier.wait(60)
        for job_id in ids[number::8]:
            left.note(job_id)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(note, range(8)))

    assert begun_of(ids, bytes(memory)) == set(ids)


def test_what_a_seat_began_is_told_when_another_process_has_it_anew(file):
    """A child that is replaced leaves its seat to the next one."""
    path, descriptor = file
    ids = []
    for _ in range(3):
        seat = Seats(1, 1, descriptor).of_child(0)[0]
        seat.leave()
        ids.append(uuid4())
        with seat.running(ids[-1], None):
            pass

    assert begun_of([*ids, uuid4()], path.read_bytes()) == set(ids)


def test_the_file_outlives_a_process_that_was_killed(tmp_path):
    path, job_id = tmp_path / "seats", uuid4()
    code = f"""
import os, signal
from uuid import UUID
from django_jobs.pool.seats import Seats
seats = Seats(2, 1, os.open({str(path)!r}, os.O_RDWR | os.O_CREAT, 0o600))
with seats.of_child(1)[0].running(UUID({str(job_id)!r}), None):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", code], check=False)

    assert killed.returncode == -signal.SIGKILL
    assert begun_of([job_id, uuid4()], path.read_bytes()) == {job_id}


@pytest.mark.parametrize("size", [0, 7, 16, 17, 100, 4200, 10_000])
def test_a_file_that_was_cut_is_read_as_far_as_it_goes(file, size):
    path, descriptor = file
    seat, ids, running = Seats(3, 1, descriptor).of_child(0)[0], [uuid4() for _ in range(9)], uuid4()
    run(seat, *ids)
    with seat.running(running, None):
        told = begun_of([*ids, running], path.read_bytes()[:size])

    assert told == {*ids, running} if size >= 4200 else told == ({running} if size == 100 else set())
