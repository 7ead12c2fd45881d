"""When which fault befalls whom, and for how long: decided by a seed.

Each victim has a timeline of its own, so that faults of several come together. What a fault meets when its
moment has come, say which process runs a job then, is not decided by the seed.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

import redis

from . import faults
from .faults import Fault, Moment
from .mutants import NO_FENCE
from .world import FAKETIME, World

OF_VALKEY: Mapping[Fault, int] = {
    faults.kill_valkey: 2,
    faults.lose_valkey: 2,
    faults.flush_valkey: 3,
    faults.restore_valkey: 3,
    faults.refuse_redis: 1,
    faults.hang_redis: 1,
    faults.cut_redis: 1,
    faults.lose_replies_of_redis: 3,
}
OF_DATABASE: Mapping[Fault, int] = {
    faults.kill_database: 2,
    faults.stop_database: 1,
    faults.refuse_database: 1,
    faults.hang_database: 1,
    faults.cut_database: 1,
    faults.lose_replies_of_database: 3,
}
OF_WORKERS: Mapping[Fault, int] = {
    faults.kill_worker: 3,
    faults.kill_session: 2,
    faults.kill_job: 3,
    faults.kill_maintainer: 2,
    faults.terminate_worker: 2,
    faults.renew_worker: 1,
    faults.pause_worker: 2,
    faults.pause_job: 1,
    faults.pause_session: 3,
    faults.cut_off_worker: 3,
    faults.cut_off_worker_from_redis: 1,
    faults.cut_off_worker_from_database: 1,
}
OF_DELIVERIES: Mapping[Fault, int] = {faults.repeat_deliveries: 3, faults.drop_deliveries: 1}


@dataclass(frozen=True)
class Planned:
    at_seconds: float
    victim: str
    fault: Fault
    lasts_seconds: float
    seed: int

    @property
    def name(self) -> str:
        return self.fault.__name__.replace("_", " ")


def plan(seed: int, seconds: float, world: World) -> list[Planned]:
    """What will happen, in the order of time."""
    timelines = [
        ("valkey", OF_VALKEY, 9.0),
        *([("database", OF_DATABASE, 13.0)] if world.cluster else []),
        *((worker.name, OF_WORKERS, 9.0) for worker in world.workers),
        # On SQLite the database's clock is that of whoever asks, and all are on one machine.
        *([("clock", {faults.move_clock: 1}, 12.0)] if world.cluster and FAKETIME else []),
        ("deliveries", OF_DELIVERIES, 2.5),
    ]
    if world.mutant == NO_FENCE:  # Nothing else would show it in a short time.
        timelines = [("who works", {faults.cut_off_worker: 1}, 1.0)]
    planned = []
    for victim, weights, pause in timelines:
        chance = Random(f"{seed} {victim}")
        at = chance.uniform(0, pause)
        while at < seconds:
            [fault] = chance.choices(list(weights), list(weights.values()))
            lasts = _duration(fault, chance, world)
            planned.append(Planned(at, victim, fault, lasts, chance.getrandbits(32)))
            at += lasts + chance.expovariate(1 / pause)
    return sorted(planned, key=lambda each: each.at_seconds)


class Schedule:
    """A context manager: within it the planned faults happen, each victim's in a thread of its own.

    In the end those that last are undone. `told` is called with each.
    """

    def __init__(self, world: World, planned: Sequence[Planned], told: Callable[[str], None]) -> None:
        self._world = world
        self._told = told
        self._over = threading.Event()
        self._began = 0.0
        self.happened = 0
        self.errors: list[BaseException] = []
        victims = {each.victim: [] for each in planned}
        for each in planned:
            victims[each.victim].append(each)
        self._threads = [
            threading.Thread(target=self._befall, args=[timeline], name=f"faults of {victim}", daemon=True)
            for victim, timeline in victims.items()
        ]

    def __enter__(self) -> "Schedule":
        self._began = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(timeout=120)
            assert not thread.is_alive(), f"The {thread.name} do not end."
        if self.errors:
            raise self.errors[0]

    def _befall(self, timeline: Sequence[Planned]) -> None:
        for each in timeline:
            self._over.wait(self._began + each.at_seconds - time.monotonic())
            if self._over.is_set():
                return
            moment = Moment(self._world, each.victim, each.lasts_seconds, Random(each.seed), self._over)
            began = time.monotonic() - self._began
            try:
                met = each.fault(moment)
            except redis.RedisError as error:
                met = None if each.victim == "deliveries" else f"{type(error).__name__}: {error}"
            except BaseException as error:  # Also the SystemExit of a server that did not start.
                self.errors.append(error)
                return
            if met is not None:
                self.happened += 1
                until = time.monotonic() - self._began
                self._told(f"{began:6.1f} … {until:4.1f} s  {each.victim}: {each.name}: {met}")


def _duration(fault: Fault, chance: Random, world: World) -> float:
    if world.mutant == NO_FENCE:
        return 4 * world.lease_seconds
    if fault in (faults.pause_worker, faults.pause_job, faults.pause_session, faults.cut_off_worker):
        return chance.choice([chance.uniform(0.2, 0.7), chance.uniform(1.5, 3)]) * world.lease_seconds
    return chance.uniform(0.5, 4)
