"""What runs for long keeps nothing of what it has run. `make leaks` asks it of 50,000 jobs."""

import os
from collections import Counter
from datetime import timedelta
from pathlib import Path

import django_jobs
from django_jobs import figures
from django_jobs.models import FigureDelta, Job, Lease
from django_jobs.states import FINISHED
from tests import tasks
from tests.conftest import wait_until

JOBS = int(os.environ.get("LEAK_JOBS", "2000"))
BATCH = 1000
LONGEST_SECONDS = 60 + JOBS / 5
MOST_GROWTH_KB = 6_000  # What Python's allocator takes at a time, and no more for more jobs.

MOST_GROWTH_DESCRIPTORS = 10  # Of connections of threads, which come and go.


def state_of(pid):
    """(open descriptors, memory in KB) of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return len(os.listdir(f"/proc/{pid}/fd")), int(status.split("VmRSS:")[1].split()[0])


def session_of(pid):
    """The processes of a worker: itself, its maintainer, who forks its children, and these."""
    processes = (int(path.name) for path in Path("/proc").glob("[0-9]*"))
    return [each for each in processes if is_in_session(each, pid)]


def is_in_session(process, leader):
    try:
        return os.getsid(process) == leader
    except ProcessLookupError:
        return False


def run(count):
    for start in range(0, count, BATCH):
        calls = [tasks.add.call(number) for number in range(start, min(count, start + BATCH))]
        django_jobs.enqueue_many(calls)
    wait_until(lambda: not Job.objects.unfinished().exists(), LONGEST_SECONDS)


def test_descriptors_memory_and_keys_do_not_grow_with_the_jobs(start_worker, valkey):
    worker = start_worker("file_processing")
    run(JOBS // 4)  # Until then, what is needed once is loaded.
    assert int(Lease.objects.get().holder.split(".")[-2]) in session_of(worker.pid)
    before = {pid: state_of(pid) for pid in session_of(worker.pid)}
    assert len(before) == 4

    run(JOBS)

    assert Job.objects.exclude(status=FINISHED).count() == 0
    wait_until(lambda: not FigureDelta.objects.exists())
    assert figures.total(timedelta(hours=5)).finished == Job.objects.count()
    for pid, (descriptors, memory) in before.items():
        now = wait_until(
            lambda pid=pid, most=descriptors + MOST_GROWTH_DESCRIPTORS: (
                (found := state_of(pid))[0] <= most and found
            )
        )
        print(f"process {pid}: descriptors {descriptors} → {now[0]}, memory {memory} → {now[1]} KB")
        assert now[1] - memory < MOST_GROWTH_KB
    # Those of deliveries that have run vanish by themselves, after ten minutes.
    lasting = [key for key in valkey.scan_iter(count=1000) if valkey.ttl(key) == -1]
    print(f"{valkey.dbsize()} keys, of which last: {Counter(key.split(b':')[1] for key in lasting)}")
    assert len(lasting) < 30
