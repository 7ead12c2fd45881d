"""`manage.py requeue_failed ID… | --queue NAME | --all`: run failed jobs once more."""

from argparse import ArgumentParser
from typing import Any

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
            self._requeue_ids(options["ids"])
            return
        failed = Job.objects.failed().order_by("id")
        if options["queue"]:
            _check_queue(options["queue"])
            failed = failed.on_queue(options["queue"])
        done = 0
        for job in failed.iterator(chunk_size=500):
            control.requeue(job)
            done += 1
        self._tell(done)

    def _requeue_ids(self, ids: list[str]) -> None:
        problems = []
        for job_id in ids:
            try:
                job = get_job(job_id)
                if job.status != FAILED:
                    raise JobsError(f"Job {job.pk} is {job.status}, not failed.")
                control.requeue(job)
            except JobsError as error:
                problems.append(str(error))
        self._tell(len(ids) - len(problems))
        if problems:
            raise CommandError("\n".join(problems))

    def _tell(self, done: int) -> None:
        self.stdout.write(f"{done} failed {'job' if done == 1 else 'jobs'} requeued.")


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
