"""`manage.py jobs_redis start|stop|status`: the embedded server of this project."""

import sys
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError

from ... import embedded
from ...engines import all_engines
from ...environment import embedded_directory
from ..terminal import TerminalCommand


class Command(TerminalCommand):
    help = "Start or stop the embedded server of this project, or tell whether it runs (exit code 1: no)."

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("action", choices=["start", "stop", "status"])

    def handle(self, **options: Any) -> None:
        action, folder = options["action"], embedded_directory()
        queues = getattr(settings, "RQ_QUEUES", None) or {}
        is_used = embedded.url(folder) in {queue.get("URL") for queue in queues.values()}
        servers = [server for engine in all_engines() for server in engine.servers()]
        others = "" if is_used else f"The project's queues are on {' and '.join(servers) or 'no server'}."
        if action == "start":
            if not is_used:
                raise CommandError(
                    f"{others} Nothing was started: the embedded server, in {folder}, is for projects that "
                    "name none in RQ_QUEUES and the environment, and have "
                    '"django-jobs-admin[embedded]" installed.'
                )
            embedded.start(folder)
        stopped = action == "stop" and embedded.stop(folder)
        server = embedded.find(folder)
        if self.wants_json:
            self.show_json(
                {
                    "running": server is not None,
                    "used": is_used,
                    "url": embedded.url(folder),
                    "directory": str(folder),
                    "pid": server.pid if server else None,
                    "servers": servers,
                }
            )
        else:
            self.show(
                f"The embedded Valkey in {folder} {_state(server, stopped=stopped)}", *filter(None, [others])
            )
        if action == "status" and not server:
            sys.exit(1)


def _state(server: embedded.EmbeddedServer | None, *, stopped: bool) -> str:
    if server:
        return f"runs (pid {server.pid}) at {server.url}."
    return "is stopped; its data is kept." if stopped else "does not run."
