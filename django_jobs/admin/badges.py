"""How a job stands, as it is told to people: a word with its badge, and a sentence that says more."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from django.db import router
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timezone import localtime
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from .. import sql
from ..models import Job, Queue, Worker
from ..states import CANCELED, DEFERRED, FAILED, FINISHED, QUEUED, SCHEDULED, STARTED
from ..verdict import PATIENCE
from .scales import moment_text

WORDS: dict[str, Any] = {
    QUEUED: _("queued"),
    SCHEDULED: _("scheduled"),
    DEFERRED: _("deferred"),
    STARTED: _("started"),
    FINISHED: _("finished"),
    FAILED: _("failed"),
    CANCELED: _("canceled"),
}

OUTCOMES = {
    "finished": _("finished"),
    "failed": _("failed"),
    "retried": _("retried"),
    "elsewhere": _("goes on elsewhere"),
    "canceled": _("canceled"),
    "lost": _("lost"),
}


@dataclass(frozen=True)
class Standing:
    """`name` is the badge's; `at` is when something is to happen."""

    name: str
    word: str
    sentence: str = ""
    at: datetime | None = None

    @property
    def badge(self) -> SafeString:
        return badge(self.name, self.word)


def standing(job: Job) -> Standing:
    """The state of a job, and what follows from its other columns."""
    if job.is_canceling:
        said = gettext("Its worker was asked to stop it and has not confirmed it yet.")
        return Standing("canceling", gettext("canceling"), said)
    if job.status == STARTED and job.elsewhere_until:
        said = gettext("Its work goes on outside; it is lost if it is not reported by {time}.")
        until = job.elsewhere_until
        return Standing(
            "elsewhere", gettext("goes on elsewhere"), said.format(time=precise_text(until)), until
        )
    if job.is_interrupted:
        said = gettext("Its worker was lost while it ran; nobody knows how far it got.")
        return Standing("interrupted", gettext("interrupted"), said)
    if due := job.will_retry_at:
        said = gettext("Attempt {attempt} is due at {time}.")
        told = said.format(attempt=job.attempt, time=precise_text(due))
        return Standing("retried", gettext("will retry"), told, due)
    return Standing(job.status, str(WORDS.get(job.status, job.status)), _sentence(job), job.scheduled_for)


def full_standing(job: Job) -> Standing:
    """The same, and of a queued job why no worker takes it, for which the database is asked."""
    told = standing(job)
    if job.status != QUEUED or job.observed_id:
        return told
    if Queue.objects.filter(name=job.queue, paused=True).exists():
        return replace(told, sentence=gettext("Its queue is paused; it waits until that is resumed."))
    if job.delivered_at and job.queue not in sql.listening(router.db_for_write(Worker)):
        return replace(told, sentence=gettext("No live worker listens on its queue."))
    return told


def badge(name: str, word: str) -> SafeString:
    return format_html('<span class="jobs-state jobs-state-{}">{}</span>', name, word)


def passing(moment: datetime) -> SafeString:
    """A time that is shown as "5 min. ago" where there is JavaScript."""
    # The text does not depend on now, so that what has not changed is not sent anew.
    return format_html(
        '<time datetime="{}" title="{}" data-jobs-ago>{}</time>',
        *(moment.isoformat(), precise_text(moment), moment_text(moment)),
    )


def precise_text(moment: datetime) -> str:
    """To the millisecond, with the time zone."""
    here = localtime(moment)
    return f"{here:%Y-%m-%d %H:%M:%S}.{here.microsecond // 1000:03} {here:%Z}"


def _sentence(job: Job) -> str:
    if job.observed_id:
        said = gettext(
            "Observed only: other code enqueued it with plain {engine}, where its id is {id}; steer it there."
        )
        return said.format(engine=job.engine, id=job.observed_id)
    if job.status == SCHEDULED and job.scheduled_for:
        return gettext("Due at {time}.").format(time=precise_text(job.scheduled_for))
    if job.status == QUEUED:
        if job.delivered_at is not None:
            return gettext("Waits for a worker.")
        if job.queued_at is None or timezone.now() - job.queued_at < PATIENCE:
            return gettext("It is being delivered.")
        return gettext("Not delivered to the engine, though it has waited for a while.")
    if job.status == DEFERRED:
        return gettext("Waits for other jobs or a limit.")
    return ""
