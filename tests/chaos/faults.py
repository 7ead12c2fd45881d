"""What can go wrong with servers, workers and deliveries."""

import os
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from tests.faults.proxy import HANG, PASS, REFUSE, FaultProxy

from .effects import now, read
from .evidence import Pause
from .world import Link, WorkerProcess, World, kill

Fault = Callable[["Moment"], str | None]
"""Does it, waits for as long as it is to last, undoes it. Returns what it met; None if it found no victim."""


@dataclass
class Moment:
    """What a fault has to do with."""

    world: World
    victim: str
    lasts_seconds: float
    chance: Random
    over: threading.Event
    _worker: WorkerProcess | None = None

    @property
    def worker(self) -> WorkerProcess:
        """The victim; if it names none, one that runs a job."""
        if self._worker is None:
            workers = self.world.workers
            chosen = [each for each in workers if each.name == self.victim]
            chosen = chosen or [each for each in workers if each.children(at_work=True)]
            self._worker = self.chance.choice(chosen or workers)
        return self._worker

    def last(self) -> None:
        """Wait for as long as the fault is to last, at most until the end of all faults."""
        self.over.wait(self.lasts_seconds)


def kill_valkey(moment: Moment) -> str:
    _restart_valkey(moment)
    return "with what it kept" if moment.world.keeps else "it keeps nothing"


def lose_valkey(moment: Moment) -> str:
    _restart_valkey(moment, lost=True)
    return "all it kept is lost"


def flush_valkey(moment: Moment) -> str:
    moment.world.valkey.client.flushall()
    return "FLUSHALL"


def restore_valkey(moment: Moment) -> str:
    """To what it held some seconds before."""
    copy = moment.world.copy_of_valkey()
    moment.last()
    moment.lasts_seconds = 0
    _restart_valkey(moment, with_copy=copy)
    return f"{moment.world.valkey.client.dbsize()} keys"


def refuse_redis(moment: Moment) -> str:
    with moment.world.trouble("redis"):
        return _break(moment, _redis(moment.world.links), REFUSE)


def hang_redis(moment: Moment) -> str:
    with moment.world.trouble("redis"):
        return _break(moment, _redis(moment.world.links), HANG)


def cut_redis(moment: Moment) -> str:
    return _cut(_redis(moment.world.links))


def lose_replies_of_redis(moment: Moment) -> str:
    requests = [b"EVALSHA", b"POP", b"MOVE", b"HSET", b"SET", b"EXEC"]
    return _lose_replies(moment, _redis(moment.world.links), requests)


def kill_database(moment: Moment) -> str:
    return _down(moment, lambda cluster: cluster.kill())


def stop_database(moment: Moment) -> str:
    return _down(moment, lambda cluster: cluster.stop("immediate"))


def refuse_database(moment: Moment) -> str:
    with moment.world.trouble("database"):
        return _break(moment, _databases(moment.world.links), REFUSE)


def hang_database(moment: Moment) -> str:
    with moment.world.trouble("database"):
        return _break(moment, _databases(moment.world.links), HANG)


def cut_database(moment: Moment) -> str:
    return _cut(_databases(moment.world.links))


def lose_replies_of_database(moment: Moment) -> str:
    return _lose_replies(moment, _databases(moment.world.links), [b"COMMIT", b"UPDATE", b"INSERT", b"SELECT"])


def kill_worker(moment: Moment) -> str | None:
    """Alone; what it forked has to see to itself."""
    return _kill_and_start_again(moment, [moment.worker.pid] if moment.worker.pid else [])


def kill_session(moment: Moment) -> str | None:
    return _kill_and_start_again(moment, moment.worker.session())


def kill_job(moment: Moment) -> str | None:
    with moment.world.trouble(worker=moment.worker):
        return _kill(moment.worker.children(at_work=True))


def kill_maintainer(moment: Moment) -> str | None:
    with moment.world.trouble(worker=moment.worker):  # The jobs end with who forked their processes.
        return _kill(moment.worker.children(at_work=False))


def terminate_worker(moment: Moment) -> str | None:
    if not moment.worker.pid:
        return None
    with moment.world.trouble(worker=moment.worker):
        moment.worker.terminate(patience_seconds=8)
        moment.last()
    moment.worker.start()
    return "SIGTERM"


def renew_worker(moment: Moment) -> str | None:
    """Its processes are replaced, with freshly imported code; what runs goes on."""
    if moment.world.isolation != "prefork" or not moment.worker.children(at_work=True):
        return None
    os.kill(moment.worker.pid, signal.SIGHUP)
    return "SIGHUP"


def pause_worker(moment: Moment) -> str | None:
    """Alone; what it forked goes on."""
    return _pause(moment, [moment.worker.pid] if moment.worker.pid else [])


def pause_job(moment: Moment) -> str | None:
    return _pause(moment, moment.worker.children(at_work=True))


def pause_session(moment: Moment) -> str | None:
    return _pause(moment, moment.worker.session())


def cut_off_worker(moment: Moment) -> str:
    """From both stores, and nobody else."""
    with moment.world.trouble("redis", "database", worker=moment.worker):
        return _break(moment, moment.worker.link.proxies, HANG)


def cut_off_worker_from_redis(moment: Moment) -> str:
    with moment.world.trouble("redis", worker=moment.worker):
        return _break(moment, _redis([moment.worker.link]), HANG)


def cut_off_worker_from_database(moment: Moment) -> str | None:
    if not moment.world.cluster:
        return None
    with moment.world.trouble("database", worker=moment.worker):
        return _break(moment, _databases([moment.worker.link]), HANG)


def move_clock(moment: Moment) -> str:
    offset = moment.chance.choice(["+600s", "-600s", "+0s"])
    moment.world.clock.write_text(f"{offset}\n")
    return offset


def repeat_deliveries(moment: Moment) -> str | None:
    """Of what runs, and of any that the server knows, at either end of the queue."""
    client, chance = moment.world.valkey.client, moment.chance
    known = sorted(key.decode().rpartition(":")[2] for key in client.scan_iter("rq:job:*", count=1000))
    running = {
        f"{each.job_id.hex}-{each.attempt}" for each in read(moment.world.effects)[-50:] if not each.end
    }
    told = [each for each in known if each.rpartition("-")[0] in running] * 5 + known
    if not told:
        return None
    chosen = chance.choices(told, k=chance.randint(1, 4))
    chance.choice([client.lpush, client.rpush])(QUEUE, *chosen)
    return ", ".join(each[-16:] for each in chosen)


def drop_deliveries(moment: Moment) -> str | None:
    client, chance = moment.world.valkey.client, moment.chance
    dropped = chance.choice([client.lpop, client.rpop])(QUEUE, chance.randint(1, 3))
    return ", ".join(each.decode()[-16:] for each in dropped) if dropped else None


QUEUE = "rq:queue:file_processing"


def _break(moment: Moment, proxies: Sequence[FaultProxy], mode: str) -> str:
    for proxy in proxies:
        proxy.mode = mode
    moment.last()
    for proxy in proxies:
        proxy.mode = PASS
    return f"for {moment.lasts_seconds:.1f} s"


def _cut(proxies: Sequence[FaultProxy]) -> str:
    connections = sum(proxy.connections for proxy in proxies)
    for proxy in proxies:
        proxy.cut_all()
    return f"{connections} connections"


def _lose_replies(moment: Moment, proxies: Sequence[FaultProxy], requests: Sequence[bytes]) -> str:
    """Each user's next reply to one of these requests."""
    request = moment.chance.choice(requests)
    before = sum(proxy.hits for proxy in proxies)
    for proxy in proxies:
        proxy.drop_reply_to = request
    moment.last()
    for proxy in proxies:
        proxy.drop_reply_to = None
    return f"{sum(proxy.hits for proxy in proxies) - before} to {request.decode()}"


def _redis(links: Sequence[Link]) -> list[FaultProxy]:
    return [link.redis for link in links]


def _databases(links: Sequence[Link]) -> list[FaultProxy]:
    return [link.database for link in links if link.database]


def _restart_valkey(moment: Moment, **how: Any) -> None:
    with moment.world.trouble("redis"):
        moment.world.valkey.kill()
        moment.last()
        moment.world.restart_valkey(**how)


def _down(moment: Moment, bring_down: Callable) -> str:
    with moment.world.trouble("database"):
        moment.world.database_runs = False
        bring_down(moment.world.cluster)
        moment.last()
        moment.world.start_database()
    return f"for {moment.lasts_seconds:.1f} s"


def _kill(pids: list[int]) -> str | None:
    kill(pids)
    return f"{pids}" if pids else None


def _kill_and_start_again(moment: Moment, pids: list[int]) -> str | None:
    with moment.world.trouble(worker=moment.worker):
        kill(pids)
        moment.worker.bury()
        moment.last()
    moment.worker.start()
    return f"{pids}" if pids else None


def _pause(moment: Moment, pids: list[int]) -> str | None:
    if not pids:
        return None
    began = now()
    with moment.world.trouble(worker=moment.worker):
        moment.worker.stop(pids)
        moment.last()
        moment.worker.resume_all()
    moment.world.pauses.append(Pause(began, now(), frozenset(pids)))
    return f"{pids} for {moment.lasts_seconds:.1f} s"
