"""`manage.py rqworker [QUEUE …]`: django-rq's command, with a worker that keeps the database's record."""

import logging
import os
import sys
import traceback
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Collection, Sequence
from contextlib import suppress
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings as django_settings
from django.core.management.base import CommandError
from django.db import connections, router
from django.utils.module_loading import module_has_submodule
from django_rq.management.commands.rqworker import Command as RQWorkerCommand

from ... import logs, maintainer, observer, registry, relay
from ...conf import settings
from ...engines import get_engine
from ...engines.rq.prefork import LIMITS, PreforkWorker
from ...engines.rq.starting import make_worker
from ...engines.rq.worker import JobsWorker
from ...environment import prepare_default_server
from ...exceptions import UnknownQueue
from ...models import Job
from ...pool.forker import is_asked, serve_if_asked
from ...processes import die_with_parent
from ...reloading import RELOADER, run_reloading
from ...retention import Rules
from ...supervision import Supervision

logger = logging.getLogger(__name__)

_LEVELS = {0: "WARNING", 1: "INFO"}


class Command(RQWorkerCommand):
    help = "Work on the given queues, on all declared ones if none is named."

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--no-maintainer",
            action="store_true",
            help="Do not run relay, reconciler and retention beside this worker; another one must.",
        )
        parser.add_argument(
            "--log-file",
            metavar="PATH",
            help='Also write the log to this file. Defaults to DJANGO_JOBS["LOG_FILE"].',
        )
        parser.add_argument(
            "--isolation",
            choices=["prefork", "fork"],
            default="prefork",
            help="prefork: long-lived processes run jobs, one after another. fork: each job has its own.",
        )
        parser.add_argument(
            "--processes",
            type=_count,
            metavar="N",
            help="How many jobs run at a time. Defaults to one per core.",
        )
        parser.add_argument(
            "--async-concurrency",
            type=_count,
            metavar="N",
            help="How many async jobs each process runs at the same time. Defaults to 1.",
        )
        parser.add_argument(
            "--max-jobs-per-child", type=_count, metavar="N", help="Replace a process after so many jobs."
        )
        parser.add_argument(
            "--max-memory-per-child",
            type=_count,
            metavar="MB",
            help="Replace a process that has come to use more memory, after the job that runs.",
        )
        parser.add_argument(
            "--grace",
            type=_seconds,
            metavar="SECONDS",
            help="How long running jobs may go on after SIGTERM. Defaults to as long as they take.",
        )
        parser.add_argument(
            "--ready-file",
            metavar="PATH",
            help="Have a file there while this worker works, for probes.",
        )
        parser.add_argument(
            "--reload",
            action="store_true",
            help="Start anew when a Python file changes, after the job that runs. For development.",
        )

    def handle(self, *queues: str, **options: Any) -> None:
        if options["worker_class"]:
            raise CommandError(
                "--worker-class is not for this command, whose worker keeps the database's record."
            )
        level = _LEVELS.get(options["verbosity"], "DEBUG")
        if options["reload"] and not is_asked():
            self._reload()
        _prepare_logging(level, options["log_file"] or settings.LOG_FILE)
        _discover_tasks()
        serve_if_asked(LIMITS)
        names, weights = _weighed(queues)
        if options["pid"]:
            Path(options["pid"]).expanduser().write_text(str(os.getpid()))
        if notice := prepare_default_server():
            self.stderr.write(notice)
        if options["burst"]:  # It ends before the maintainer's first pass: deliver now what waits.
            while relay.run_once() >= relay.BATCH:
                pass
        try:
            worker = make_worker(
                names,
                worker_class=PreforkWorker if options["isolation"] == "prefork" else JobsWorker,
                run_maintainer=None if options["no_maintainer"] else maintainer.run_in_child,
                job_class=options["job_class"],
                queue_class=options["queue_class"],
                name=options["name"],
                worker_ttl=options["worker_ttl"],
                serializer=options["serializer"],
            )
        except (UnknownQueue, ValueError) as error:
            raise CommandError(str(error)) from error
        worker.observe = observer.record
        self._configure(worker, weights, options)
        logger.info("%s", _introduction(worker.name, worker.queue_names()))
        worker.work(
            burst=options["burst"],
            with_scheduler=options["with_scheduler"],
            logging_level=level,
            max_jobs=options["max_jobs"],
            max_idle_time=options["max_idle_time"],
        )

    def _configure(self, worker: JobsWorker, weights: Sequence[int] | None, options: dict[str, Any]) -> None:
        if not isinstance(worker, PreforkWorker):
            given = [f"--{name.replace('_', '-')}" for name in _OF_PREFORK if options[name] is not None]
            if given or weights:
                raise CommandError(
                    f"{', '.join(given) or 'Weights of queues'} and --isolation=fork exclude each other."
                )
            return
        worker.processes = options["processes"] or 0
        worker.async_concurrency = options["async_concurrency"] or 1
        worker.max_jobs_per_child = options["max_jobs_per_child"]
        if options["max_memory_per_child"]:
            worker.max_memory_per_child_bytes = options["max_memory_per_child"] * 1024 * 1024
        worker.grace_seconds = options["grace"]
        worker.weights = weights
        worker.supervision = Supervision(options["ready_file"])

    def _reload(self) -> None:
        """Return in the process that is to work; the one that was started by hand watches until its end."""
        if not django_settings.DEBUG:
            raise CommandError("--reload is for development, but DEBUG is False; leave it out.")
        if watching := os.environ.pop(RELOADER, ""):
            die_with_parent(int(watching))
            return
        with suppress(Exception):  # The child tells. What could be imported is watched.
            registry.discover()
        sys.exit(run_reloading(self.stderr.write))


_OF_PREFORK = (
    "processes",
    "async_concurrency",
    "max_jobs_per_child",
    "max_memory_per_child",
    "grace",
    "ready_file",
)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is no whole number from 1")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds < 1e9:
        raise ArgumentTypeError(f"{text!r} is no number of seconds")
    return seconds


def _weighed(queues: Sequence[str]) -> tuple[list[str], list[int] | None]:
    """The names, and the weights if any has one: `mail=5 reports=1`, or in one word with commas."""
    parts = [part.strip() for queue in queues for part in queue.split(",") if part.strip()]
    if not any("=" in part for part in parts):
        return list(queues), None
    names, weights = [], []
    for part in parts:
        name, _, weight = part.partition("=")
        if weight and not (weight.isdecimal() and 0 < int(weight) <= 1000):
            raise CommandError(f'"{part}": the weight of a queue is a whole number from 1 to 1000.')
        names.append(name)
        weights.append(int(weight or 1))
    return names, weights


def _prepare_logging(level: str, path: str | os.PathLike[str] | None) -> None:
    logs.install()
    root, handlers = logging.getLogger(), list[logging.Handler]()
    if not root.hasHandlers():
        # A project that configures no logging sees what its jobs log all the same.
        root.setLevel(level)
        handlers.append(logging.StreamHandler())
    if path:
        try:
            # Each record is one write at the end of the file, so what parent and children write stays whole.
            handlers.append(WatchedFileHandler(path, encoding="utf-8", errors="backslashreplace"))
        except OSError as error:
            raise CommandError(
                f"The log file {path} cannot be written: {error.strerror}. Name another one with --log-file "
                'or DJANGO_JOBS["LOG_FILE"].'
            ) from error
    for handler in handlers:
        handler.setFormatter(logging.Formatter(logs.LINE))
        handler.addFilter(logs.JobFilter())
        root.addHandler(handler)
    ours = logging.getLogger("django_jobs")
    if ours.level == logging.NOTSET:
        ours.setLevel(level)


def _discover_tasks() -> None:
    """Import all tasks once, before the first fork, rather than in every child."""
    try:
        registry.discover()
    except Exception as error:
        apps_with_tasks = [app for app in apps.get_app_configs() if module_has_submodule(app.module, "tasks")]
        names = [f"{app.name}.tasks" for app in apps_with_tasks]
        broken = next((name for name in names if name not in sys.modules), "the tasks")
        raise CommandError(
            f"{broken} cannot be imported: {type(error).__name__}: {error} ({_place(error)})."
        ) from error


def _place(error: Exception) -> str:
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}"
    *_, frame = (
        each for each in traceback.extract_tb(error.__traceback__) if not each.filename.startswith("<")
    )
    return f"{frame.filename}, line {frame.lineno}"


def _introduction(name: str, queues: Collection[str]) -> str:
    """Who works, on what, with which stores, and how long is kept what was done, in one line."""
    servers = get_engine("rq").servers().items()
    server = next(server for server, declared in servers if set(queues) & set(declared))
    database = connections[router.db_for_write(Job)]
    told = database.settings_dict
    where = f"{told['NAME']} on {told['HOST']}" if told["HOST"] else told["NAME"]
    return (
        f"Worker {name} works on {', '.join(queues)}; server: {server}; database: {database.display_name} "
        f"{where}; {Rules.of_settings()}."
    )
