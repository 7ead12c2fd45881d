"""`manage.py requeue_failed ID… | --queue NAME | --all`: run failed jobs once more."""

from argparse import ArgumentParser
from collections.abc import Iterable
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError

from ... import control
from ...engines import all_engines
from ...exceptions import JobsError, UnknownQueue
from ...models import Job, get_job
from ...states import FAILED


class Command(BaseCommand):
    help = "Requeue failed jobs: those with the given ids, those of a queue, or all."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("ids", nargs="*", metavar="ID", help="Ids of failed jobs.")
        which = parser.add_mutually_exclusive_group()
        which.add_argument("--queue", help="All failed jobs of this queue.")
        which.add_argument("--all", action="store_true", help="All failed jobs of all queues.")

    def handle(self, **options: Any) -> None:
        if bool(options["ids"]) == bool(options["queue"] or options["all"]):
            raise CommandError("Say which jobs: ids, or --queue NAME, or --all.")
        if options["ids"]:
            self._requeue(options["ids"], named=True)
            return
        failed = Job.objects.failed().order_by("id")
        if options["queue"]:
            _check_queue(options["queue"])
            failed = failed.on_queue(options["queue"])
        self._requeue(failed.values_list("pk", flat=True).iterator(chunk_size=500), named=False)

    def _requeue(self, ids: Iterable[str | UUID], *, named: bool) -> None:
        done, problems = 0, []
        for job_id in ids:
            try:
                job = get_job(job_id)  # As it is now: somebody else may have requeued it meanwhile.
                if job.status != FAILED:
                    raise JobsError(f"Job {job.pk} is {job.status}, not failed.")
                control.requeue(job)
                done += 1
            except JobsError as error:
                problems.append(str(error))
        self.stdout.write(f"{done} failed {'job' if done == 1 else 'jobs'} requeued.")
        if problems and named:  # Of all failed jobs, some may rightly not be failed any more.
            raise CommandError("\n".join(problems))


def _check_queue(name: str) -> None:
    problems = []
    for engine in all_engines():
        try:
            engine.check_queue(name)
        except UnknownQueue as error:
            problems.append(error)
        else:
            return
    raise CommandError(str(problems[0]))
