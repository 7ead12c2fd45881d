"""Steering of workers: quiet, unquiet, stop.

An order stands in the worker's row. The worker hears of it with its next sign of life, and obeys if it was
started by `rqworker`. Where an engine's workers take no orders, `UnsupportedByEngine` is raised.
"""

import logging
from typing import Any

from ..engines import check_supported
from ..exceptions import NotPossible
from ..models import Worker
from .steering import check_permission

logger = logging.getLogger(__name__)


def quiet_worker(worker: Worker, by: Any = None) -> bool:
    """Have a worker take no further job; what runs there finishes. False if it was told to already.

    Raises `NotPossible` for one that was told to stop and for one that is gone.
    """
    return _order(worker, Worker.Order.QUIET, by, instead_of=Worker.Order.NONE)


def unquiet_worker(worker: Worker, by: Any = None) -> bool:
    """Have a worker that is quiet take jobs again; False if it was not told to be quiet.

    Raises `NotPossible` for one that was told to stop and for one that is gone.
    """
    return _order(worker, Worker.Order.NONE, by, instead_of=Worker.Order.QUIET)


def stop_worker(worker: Worker, by: Any = None) -> bool:
    """Have a worker end as SIGTERM does: it takes nothing more and ends when what runs has ended. False if it
    was told to already.

    What supervises it may start another one. Raises `NotPossible` for one that is gone.
    """
    return _order(worker, Worker.Order.STOP, by)


def _order(worker: Worker, order: Worker.Order, by: Any, instead_of: Worker.Order | None = None) -> bool:
    check_permission(by, "manage_worker")
    if not isinstance(worker, Worker):
        raise TypeError(f"{worker!r} is no worker; give one of Worker.objects.")
    check_supported(worker.engine, "orders", f"Worker {worker.name}")
    rows = Worker.objects.filter(pk=worker.pk)
    others = rows.exclude(order=order) if instead_of is None else rows.filter(order=instead_of)
    changed = bool(others.update(order=order))
    now = rows.values_list("order", flat=True).first()
    if now is None:
        raise NotPossible(f"There is no worker {worker.name} any more.", "is gone")
    worker.order = now
    if now != order:
        raise NotPossible(f"Worker {worker.name} was told to stop; it cannot be told otherwise.", "stops")
    if changed:
        told = order.name.lower() if order else "unquiet"
        logger.info("Worker %s is told: %s, by %s.", worker.name, told, by or "trusted code")
    return changed
