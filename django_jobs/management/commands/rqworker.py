"""`manage.py rqworker [QUEUE …]`: django-rq's command, with a worker that keeps the database's record."""

import logging
import os
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError
from django_rq.management.commands.rqworker import Command as RQWorkerCommand

from ... import maintainer, relay
from ...engines.rq.starting import make_worker
from ...environment import prepare_default_server
from ...exceptions import UnknownQueue

_LEVELS = {0: "WARNING", 1: "INFO"}


class Command(RQWorkerCommand):
    help = "Work on the given queues, on all declared ones if none is named."

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--no-maintainer",
            action="store_true",
            help="Do not run relay and reconciler beside this worker; another one must.",
        )

    def handle(self, *queues: str, **options: Any) -> None:
        if options["worker_class"]:
            raise CommandError(
                "--worker-class is not for this command, whose worker keeps the database's record."
            )
        level = _LEVELS.get(options["verbosity"], "DEBUG")
        if not logging.getLogger().hasHandlers():
            # A project that configures no logging sees what its jobs log all the same.
            logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        if options["pid"]:
            Path(options["pid"]).expanduser().write_text(str(os.getpid()))
        if notice := prepare_default_server():
            self.stderr.write(notice)
        if options["burst"]:  # It ends before the maintainer's first pass: deliver now what waits.
            while relay.run_once() >= relay.BATCH:
                pass
        try:
            worker = make_worker(
                queues,
                run_maintainer=None if options["no_maintainer"] else maintainer.run_in_child,
                job_class=options["job_class"],
                queue_class=options["queue_class"],
                name=options["name"],
                worker_ttl=options["worker_ttl"],
                serializer=options["serializer"],
            )
        except (UnknownQueue, ValueError) as error:
            raise CommandError(str(error)) from error
        worker.work(
            burst=options["burst"],
            with_scheduler=options["with_scheduler"],
            logging_level=level,
            max_jobs=options["max_jobs"],
            max_idle_time=options["max_idle_time"],
        )
