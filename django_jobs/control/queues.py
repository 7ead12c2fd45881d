"""Steering of queues: pause, resume, empty."""

from typing import Any

from django.db import router, transaction

from ..models import Job, Queue, QueueEvent
from ..monitor import check_queue
from .jobs import cancel_waiting
from .steering import check_permission, each


def pause(queue: str | Queue, by: Any = None) -> bool:
    """Let no further job of this queue start until it is resumed; False if it is paused already.

    What runs finishes; what waits stays. Raises `UnknownQueue`.
    """
    check_permission(by, "manage_queue")
    name = _checked(queue)
    with transaction.atomic(using=router.db_for_write(Queue)):
        row, _ = Queue.objects.get_or_create(name=name)
        changed = Queue.objects.filter(name=row.name, paused=False).update(paused=True)
        if changed:
            QueueEvent.objects.create(queue=name, kind=QueueEvent.Kind.PAUSED, by=by)
    return bool(changed)


def resume(queue: str | Queue, by: Any = None) -> bool:
    """Let the jobs of a paused queue start again; False if it is not paused. Raises `UnknownQueue`."""
    check_permission(by, "manage_queue")
    name = _checked(queue)
    with transaction.atomic(using=router.db_for_write(Queue)):
        changed = Queue.objects.filter(name=name, paused=True).update(paused=False)
        if changed:
            QueueEvent.objects.create(queue=name, kind=QueueEvent.Kind.RESUMED, by=by)
    return bool(changed)


def empty(queue: str | Queue, by: Any = None) -> int:
    """Cancel all jobs that are queued on this queue now and that `by` may see; how many. Scheduled ones stay.

    Raises `UnknownQueue`.
    """
    check_permission(by, "manage_queue")
    name = _checked(queue)
    canceled = each(cancel_waiting, Job.objects.queued().ours().on_queue(name), by).done
    message = f"{canceled} queued {'job' if canceled == 1 else 'jobs'} canceled."
    QueueEvent.objects.create(queue=name, kind=QueueEvent.Kind.EMPTIED, by=by, message=message)
    return canceled


def _checked(queue: str | Queue) -> str:
    name = queue.name if isinstance(queue, Queue) else queue
    check_queue(name)
    return name
