"""What can be done to jobs in the admin: which permission it takes, in which states, and how it is told."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext_lazy

from .. import control
from ..engines import Lack, lack_of
from ..models import Job, Operation
from ..states import DEFERRED, QUEUED, SCHEDULED, STARTED, TERMINAL, UNFINISHED, Status


@dataclass(frozen=True)
class Verb:
    """A verb of `control`. With a `question`, people are asked once more before it is done."""

    name: Operation.Verb
    steer: Callable[..., Any]
    permission: str
    states: frozenset[Status]
    label: Any
    done: Any
    explanation: Any
    question: Any
    all_question: Any
    is_asked: bool = True
    is_harsh: bool = False
    takes_reason: bool = False
    unstopped: Any = ""
    """What becomes of jobs that run where the engine cannot stop them."""

    def lack(self, job: Job) -> Lack | None:
        """Why the engine of a job in this state cannot do it."""
        return lack_to_stop(job) if self.steer is control.stop else None

    def is_possible(self, job: Job) -> bool:
        # The library of an observed job decides what becomes of it; its row is ours.
        return job.status in self.states and (not job.observed_id or self.steer is control.delete)

    def __str__(self) -> str:
        return str(self.label)


def lack_to_stop(job: Job) -> Lack | None:
    """Why a job that runs cannot be stopped; None if it can, and for one that does not run on an engine."""
    runs = job.status == STARTED and not job.elsewhere_until
    return lack_of(job.engine, "stop") if runs else None


_LEFT_ALONE = _("Such jobs are left alone.")
_GOES_ON = _("The functions of such jobs go on, but how they end changes nothing.")

_ALL = [
    Verb(
        name=Operation.Verb.REQUEUE,
        steer=control.requeue,
        permission="requeue_job",
        states=TERMINAL,
        label=_("Requeue"),
        done=ngettext_lazy("%(count)d job requeued.", "%(count)d jobs requeued.", "count"),
        explanation=_("Failed and canceled jobs run once more; of finished ones a copy is made, which runs."),
        question=ngettext_lazy("Requeue %(count)d job?", "Requeue %(count)d jobs?", "count"),
        all_question=_("Requeue all jobs that match?"),
        is_asked=False,
    ),
    Verb(
        name=Operation.Verb.RUN_NOW,
        steer=control.run_now,
        permission="run_job",
        states=frozenset({SCHEDULED}),
        label=_("Run now"),
        done=ngettext_lazy("%(count)d job queued at once.", "%(count)d jobs queued at once.", "count"),
        explanation=_("Scheduled jobs are queued at once instead of when they are due."),
        question=ngettext_lazy("Run %(count)d job now?", "Run %(count)d jobs now?", "count"),
        all_question=_("Run all jobs that match now?"),
        is_asked=False,
    ),
    Verb(
        name=Operation.Verb.CANCEL,
        steer=control.cancel,
        permission="cancel_job",
        states=frozenset({QUEUED, SCHEDULED, DEFERRED}),
        label=_("Cancel"),
        done=ngettext_lazy(
            "%(count)d job canceled or asked to stop.", "%(count)d jobs canceled or asked to stop.", "count"
        ),
        explanation=_(
            "Jobs that wait will not run. Those that run are stopped, if you may stop running jobs."
        ),
        question=ngettext_lazy("Cancel %(count)d job?", "Cancel %(count)d jobs?", "count"),
        all_question=_("Cancel all jobs that match?"),
        unstopped=_LEFT_ALONE,
    ),
    Verb(
        name=Operation.Verb.STOP,
        steer=control.stop,
        permission="stop_job",
        states=frozenset({STARTED}),
        label=_("Stop"),
        done=ngettext_lazy("%(count)d job is being stopped.", "%(count)d jobs are being stopped.", "count"),
        explanation=_("Workers end the jobs that run, wherever they are in their work; these end canceled."),
        question=ngettext_lazy("Stop %(count)d job?", "Stop %(count)d jobs?", "count"),
        all_question=_("Stop all running jobs that match?"),
        is_harsh=True,
        unstopped=_LEFT_ALONE,
    ),
    Verb(
        name=Operation.Verb.MARK_FAILED,
        steer=control.mark_failed,
        permission="fail_job",
        states=UNFINISHED,
        label=_("Mark as failed"),
        done=ngettext_lazy("%(count)d job marked as failed.", "%(count)d jobs marked as failed.", "count"),
        explanation=_(
            "Jobs that have not ended are failed, with your reason; what runs is stopped, and no "
            "attempt follows."
        ),
        question=ngettext_lazy("Mark %(count)d job as failed?", "Mark %(count)d jobs as failed?", "count"),
        all_question=_("Mark all jobs that match as failed?"),
        is_harsh=True,
        takes_reason=True,
        unstopped=_GOES_ON,
    ),
    Verb(
        name=Operation.Verb.DELETE,
        steer=control.delete,
        permission="delete_job",
        states=frozenset(Status),
        label=_("Delete"),
        done=ngettext_lazy("%(count)d job deleted.", "%(count)d jobs deleted.", "count"),
        explanation=_(
            "Jobs are deleted with their attempts, logs and events; what runs is stopped. "
            "This cannot be undone."
        ),
        question=ngettext_lazy("Delete %(count)d job?", "Delete %(count)d jobs?", "count"),
        all_question=_("Delete all jobs that match?"),
        is_harsh=True,
        unstopped=_GOES_ON,
    ),
]

VERBS = {verb.name.value: verb for verb in _ALL}
