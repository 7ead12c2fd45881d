"""What a worker with long-lived children takes from its queues, and to whom it hands that.

It takes what there is room for, claims it, and gives each child as much as it will begin at once or soon.
What waits behind something that takes long goes to another child, or back to the queue.
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

from django.db import Error, connections
from redis import RedisError
from rq.worker.base import BaseWorker, DequeueStrategy

from ... import registry
from ...batches import Claimed
from ...exceptions import EngineUnavailable
from ...models import Job
from ...models.workers import installation_id
from ...pool import holdings
from ...pool.children import Child
from ...pool.holdings import Holdings
from ...pool.nursery import Nursery
from ...pool.workload import Workload
from .. import get_engine
from ..base import Delivery, parse_delivery_id
from . import parking, taking
from .horses import HorsesWorker
from .robust import LOOKED_THROUGH
from .taking import Arrivals, End, Taken, Taking
from .trampoline import FOREIGN

SHARE_EVERY_SECONDS = 0.05
"""How often it looks whether a job waits behind one that takes long."""
LATER_SECONDS = 0.2
"""After which a row that was locked is asked for again."""
LOCKED_PATIENCE_SECONDS = 10
REST_SECONDS = 1
"""How long nothing is taken after a server or the database was away."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Asked:
    """What Redis was told and asked for."""

    ends: Sequence[End]
    room: int
    slots: int
    error: Exception | None = None


class HandingWorker(HorsesWorker):
    """The hand between queues and children; `PreforkWorker` has the loop that moves it."""

    async_concurrency = 1
    """How many async jobs a child runs at the same time."""
    weights: Sequence[int] | None = None
    """Of each queue; None to serve them strictly in their order."""

    _nursery: Nursery
    _taking: Taking
    _arrivals: Arrivals

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._begin_anew()

    def _begin_anew(self) -> None:
        """RQ's `work()` may be called again."""
        self._holdings = Holdings(self._signs.worker.pk)
        self._workload = Workload()
        self._backlog: deque[Claimed] = deque()
        """What is held and not handed to a child."""
        self._waits_since = 0.0
        self._later: dict[Taken, tuple[float, float]] = {}  # {what: (when to ask again, when to give up)}
        self._ends: list[End] = []
        """What Redis is not told yet."""
        self._asked: _Asked | None = None
        self._worked_seconds = 0.0
        self._paused: set[str] = set()
        self._may_be_more = True
        """False after nothing was found in the queues, until something arrives."""
        self._is_suspended = self._was_away = False
        self._rests_until = self._gives_back_at = 0.0
        self._is_void = False
        """True once others may hold what this worker held, until it has given all back that has not begun."""
        self._begun = 0

    def _may_take(self) -> bool:
        stays_out = self._stop_requested or self._is_quiet or self._is_void
        return not (stays_out or self._signs.fence.has_closed())

    def _room(self, left: int | None) -> tuple[int, int]:
        """How many deliveries, and how many plain jobs, there is room for."""
        staying = self._nursery.staying()
        coming = self._nursery.processes - len(staying)  # Those to be forked.
        free = sum(child.has_a_turn for child in staying) + coming - len(self._horses)
        beside = sum(child.free_beside for child in staying) + coming * (self.async_concurrency - 1)
        ahead = sum(self._workload.room(self._load(child), child.queued_up) for child in staying)
        begun = len(self._backlog) + len(self._later)
        room = max(0, free + ahead + self._workload.beside(beside) - begun)
        if self._nursery.max_jobs:
            room = min(room, self._nursery.processes * self._nursery.max_jobs)
        idle = sum(child.is_idle for child in staying) + coming
        slots = max(0, idle - len(self._horses) - begun)
        if left is not None:
            room, slots = min(room, max(0, left - begun)), min(slots, max(0, left - begun))
        return room, slots

    def _ask(self, left: int | None) -> None:
        """Tell Redis what has ended, and ask it for what there is room for; `_taken` has the answer."""
        if self._asked is not None:  # An error came between; its answer is still to be heard.
            return
        room = slots = 0
        if self._may_take() and self._may_be_more and time.monotonic() >= self._rests_until:
            room, slots = self._room(left)
        if not (self._ends or room or slots):
            return
        ends, self._ends = self._ends, []
        worked, self._worked_seconds = self._worked_seconds, 0.0
        order, quotas = self.queues, [0] * len(self.queues)
        if self.weights:
            quotas = self._workload.quotas(self.weights, max(1, room))
        elif self._has_strategy():  # Each queue gives one, then the order is another one.
            order, quotas = self._ordered_queues, [1] * len(order)
            room, slots = min(room, len(order)), min(slots, len(order))
        self._asked = _Asked(ends, room, slots)
        try:
            self._taking.ask(
                ends,
                room=room,
                slots=slots,
                execution=uuid4().hex,
                quotas=quotas,
                is_busy=bool(self._holdings or self._horses),
                worked_seconds=worked,
                paused=self._paused,
                order=order,
            )
        except (RedisError, OSError) as error:
            self._asked.error = error

    def _taken(self) -> list[Taken]:
        """What Redis gave."""
        asked, self._asked = self._asked, None
        if asked is None:
            return []
        try:
            if asked.error:
                raise asked.error
            taken = self._taking.answer()
        except (RedisError, OSError) as error:
            return self._do_without(error, asked.ends, asked.room)
        self._was_away = False
        if self._is_suspended != (taken is None):
            self._is_suspended = taken is None
            if self._is_suspended:
                logger.info("Worker %s: suspended, run `rq resume` to resume", self.name)
        if taken is None:
            self._rest()
            return []
        if asked.room or asked.slots:
            self._may_be_more = bool(taken)
        if taken:
            self.reorder_queues(next(queue for queue in self.queues if queue.name == taken[-1].queue))
        return _interleaved(taken) if self.weights else taken

    def _has_strategy(self) -> bool:
        """If the order of the queues is another one each time: RQ's random or round robin."""
        is_ordered = self._dequeue_strategy == DequeueStrategy.DEFAULT
        return not is_ordered or type(self).reorder_queues is not BaseWorker.reorder_queues

    def _do_without(self, error: Exception, ends: Sequence[End], room: int) -> list[Taken]:
        """Redis is full, or away; then RQ is not told of these ends. What is in its way, the maintainer
        removes."""
        self._rest()
        if taking.is_full(error):
            logger.warning("Worker %s: Redis is full: %s", self.name, error)
            self._taking.forget(ends)
            with suppress(RedisError):
                return self._taking.take_from_full_server(room, LOOKED_THROUGH) if room else []
        elif not self._was_away:
            logger.warning("Worker %s: Redis is not reached: %s", self.name, error)
            self._was_away = True
        return []

    def _begin(self, taken: Sequence[Taken]) -> None:
        at = time.monotonic()
        due = [each for each, (again_at, _) in self._later.items() if again_at <= at]
        wanted: dict[holdings.Wanted, Taken] = {}
        for each in [*taken, *due]:
            key = parse_delivery_id(each.id)
            if key is None:
                try:
                    self._begun += self.start_plain(each)
                except Exception:
                    # RQ's maintenance finds it. What was taken with it must not wait for that.
                    logger.exception("Worker %s: plain job %s could not be started.", self.name, each.id)
                    self._rest()
            elif key in wanted or key[0] in self._holdings.held:  # Delivered twice.
                self._ends.append(End(each, taking.DROPPED))
            else:
                wanted[key] = each
        if wanted:
            self._claim(wanted, at)

    def _claim(self, wanted: Mapping[holdings.Wanted, Taken], at: float) -> None:
        try:
            claimed = self._holdings.claim(wanted)
            places = {key: place for place, key in enumerate(wanted)}
            claimed.sort(key=lambda each: places[each.job_id, each.attempt])
            unclaimed = wanted.keys() - {(each.job_id, each.attempt) for each in claimed}
            if unclaimed:
                self._settle({key: wanted[key] for key in unclaimed}, at)
        except Error as error:
            logger.warning("Worker %s: %s jobs could not be claimed: %s", self.name, len(wanted), error)
            connections.close_all()
            self._rest()
            claimed = [held.claimed for key in wanted if (held := self._holdings.held.get(key[0]))]
            left = [each for key, each in wanted.items() if key[0] not in self._holdings.held]
            with suppress(RedisError):
                self._taking.put_back(left)
            for each in left:
                self._later.pop(each, None)
        for attempt in claimed:
            self._later.pop(wanted[attempt.job_id, attempt.attempt], None)
            self._workload.note_claimed(registry.is_async(attempt.task))
        if claimed and not self._backlog:
            self._waits_since = time.monotonic()
        self._backlog.extend(claimed)
        self._begun += len(claimed)

    def _settle(self, unclaimed: Mapping[holdings.Wanted, Taken], at: float) -> None:
        """See what becomes of deliveries that claimed nothing. Raises the database's error."""
        on_paused = holdings.await_resumption(unclaimed)
        locked = holdings.still_await(unclaimed) - on_paused
        foreign = holdings.unknown(unclaimed)
        for key, each in unclaimed.items():
            if key in locked:
                _, give_up_at = self._later.get(each, (0, at + LOCKED_PATIENCE_SECONDS))
                if at < give_up_at:
                    self._later[each] = at + LATER_SECONDS, give_up_at
                    continue
                # Locked all the time; the reconciler has it delivered again.
            self._later.pop(each, None)
            if key in foreign and (other := taking.other_installation(self.connection, each.id)):
                parking.park(self.connection, each.queue, each.id, other)
                logger.warning(FOREIGN, each.id, other, installation_id())
            elif key not in on_paused:
                logger.info("Attempt %s of job %s is not awaited; its delivery is dropped.", key[1], key[0])
            self._ends.append(End(each, taking.DROPPED))

    # Handing out

    def _hand_out(self) -> None:
        """Give what is held to whoever is free, or soon will be."""
        if not self._backlog or not self._may_take():
            return
        self._nursery.fill()
        loads = {child: self._load(child) for child in self._nursery.staying()}
        while self._backlog and loads:
            claimed = self._backlog[0]
            child = min(loads, key=lambda each: (loads[each], len(each.handed)))
            if not self._may_have(child, loads[child], claimed) or not child.hand(claimed):
                del loads[child]
                continue
            if not child.runs_beside(claimed):
                loads[child] += self._workload.expected(claimed.task)
            self._backlog.popleft()
            self._holdings.held[claimed.job_id].child = child
            self._waits_since = time.monotonic()

    def _load(self, child: Child) -> float:
        """For how many seconds it is busy, as far as is known: at least for as long as it was already."""
        expected = sum(self._workload.expected(claimed.task) for claimed in child.in_turn_of())
        return max(expected, child.ran_seconds())

    def _may_have(self, child: Child, load: float, claimed: Claimed) -> bool:
        most = self._nursery.max_jobs
        if most and child.ran + len(child.handed) >= most:
            return False
        return child.has_free_hands(claimed) or self._workload.has_room(load, claimed.task, child.queued_up)

    def _share(self) -> None:
        """Let no job wait behind one that takes long: a free child gets it, else another worker."""
        for child in self._nursery.children:
            if child.makes_wait(2 * SHARE_EVERY_SECONDS):
                self._reclaim(child.take_back())
        self._hand_out()
        if self._backlog and time.monotonic() - self._waits_since > 2 * SHARE_EVERY_SECONDS:
            self._give_back(self._backlog)

    def _give_all_back(self) -> None:
        """Keep nothing that has not begun: this worker stops, is quiet, or others may hold what it held."""
        for child in self._nursery.children:
            self._reclaim(child.take_back())
        if self._backlog and not self._signs.fence.has_closed():
            self._give_back(self._backlog)
        are_ending = any(child.ending for child in self._nursery.children)  # What they have is still to come.
        if not (self._backlog or are_ending or self._signs.fence.has_closed()):
            self._is_void = False

    def _give_back(self, waiting: Iterable[Claimed]) -> None:
        """Let others run these. While the database is away they stay, and nothing here runs them: the answer
        may be all that was lost."""
        if time.monotonic() < self._gives_back_at:
            return
        try:
            held = self._holdings.give_back(list(waiting))
        except Error as error:
            logger.warning("Worker %s: nothing can be given back: %s", self.name, error)
            connections.close_all()
            self._gives_back_at = time.monotonic() + REST_SECONDS
            self._is_void = True
            return
        self._backlog = deque(each for each in self._backlog if each.job_id in self._holdings.held)
        if self._backlog:  # Their rows are locked.
            self._gives_back_at = time.monotonic() + LATER_SECONDS
        self._begun -= len(held)
        self._ends += [End(each.ticket, taking.DROPPED) for each in held]
        if held:
            logger.info("Worker %s gave back %s jobs before they began.", self.name, len(held))
        with suppress(EngineUnavailable, Error):  # The relay pushes them.
            rows = Job.objects.queued().filter(pk__in=[each.claimed.job_id for each in held])
            if deliveries := [Delivery(*row) for row in rows.values_list(*Delivery.COLUMNS)]:
                get_engine("rq").push([replace(delivery, at_front=True) for delivery in deliveries])

    def _reclaim(self, returned: Iterable[Claimed]) -> None:
        """Hand these to others, before what waits."""
        returned = list(returned)
        for claimed in returned:
            self._holdings.held[claimed.job_id].child = None
        self._backlog.extendleft(reversed(returned))

    def _rest(self) -> None:
        self._rests_until = time.monotonic() + REST_SECONDS
        self._may_be_more = True
        self._arrivals.forget()


def _interleaved(taken: Sequence[Taken]) -> list[Taken]:
    """Each queue's in their order, spread evenly: of many that are taken at once, no queue's come last."""
    counts = Counter(each.queue for each in taken)
    seen: Counter[str] = Counter()
    places = []
    for each in taken:
        places.append((seen[each.queue] + 0.5) / counts[each.queue])
        seen[each.queue] += 1
    return [taken[number] for number in sorted(range(len(taken)), key=places.__getitem__)]
