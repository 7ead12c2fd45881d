"""Start everything, feed documents through the queues, and show what becomes of them."""

import os
import signal
import time
from argparse import ArgumentTypeError
from contextlib import ExitStack
from datetime import timedelta

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import BaseCommand, CommandError, call_command
from django.utils import timezone
from rich.console import Console

from django_jobs import embedded
from testproject.documents.corpus import CorpusError, files, installed_packages
from testproject.documents.display import Display, print_table
from testproject.documents.feeding import Feeding, rows, unprocessed
from testproject.documents.processes import ProcessError, Processes, answers, free_port

QUEUES = ["file_processing", "vectorization", "kg_extraction"]
LOOK_INTERVAL_SECONDS = 0.25
STALL = timedelta(seconds=120)
WEB_SERVER_START_SECONDS = 60


class Command(BaseCommand):
    help = "Starts a private Valkey, workers and the admin, and feeds them files or packages' descriptions."

    def add_arguments(self, parser):
        parser.add_argument(
            "paths", nargs="*", metavar="PATH", help="a text file, or a folder of .txt, .md, .rst"
        )
        parser.add_argument(
            "--once", action="store_true", help="end when all is done, with 0 if all went well"
        )
        parser.add_argument(
            "--port", type=number_to(65535), default=8000, help="of the web server; defaults to 8000"
        )
        parser.add_argument(
            "--workers", type=number_to(16), default=1, metavar="N", help="for each queue; defaults to 1"
        )

    def handle(self, *, paths, once, port, workers, **options):
        self.console = Console()
        self.logs = settings.PROJECT_DATA / "logs"
        try:
            sources = files(paths) if paths else installed_packages()
            # However the command is ended, it ends as by Ctrl-C and stops what it started.
            for ending in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(ending, signal.default_int_handler)
            with ExitStack() as stack:
                self.run(sources, once, port, workers, stack)
        except (CorpusError, ProcessError) as error:
            raise CommandError(str(error)) from error
        except KeyboardInterrupt:
            raise CommandError("Interrupted. Run it again to go on.", returncode=130) from None

    def run(self, sources, once, port, workers, stack):
        if not os.environ.get("REDIS_URL"):
            embedded.start(settings.PROJECT_DATA / "valkey")
            stack.callback(embedded.stop, settings.PROJECT_DATA / "valkey")
        call_command("migrate", verbosity=0)
        self.processes = stack.enter_context(Processes(self.logs))
        self.start_processes(port, workers)

        feeding = Feeding()
        with Display(self.console, QUEUES) as self.display:
            feeding.process(sources)
            self.wait(feeding)
            feeding.vectorize_anew()
            self.wait(feeding)
        print_table(self.console, rows(sources))

        problems = feeding.not_finished() + [f"{name} is not processed." for name in unprocessed(sources)]
        report = "\n".join(["Not everything went well:", *problems]) if problems else "All done."
        if not once:
            self.say(f"{report}\nThe workers and the admin go on until Ctrl-C.")
            self.serve()
        elif problems:
            raise CommandError(report)

    def start_processes(self, wanted_port, workers):
        port = free_port(wanted_port)
        if port != wanted_port:
            self.say(f"Port {wanted_port} is taken; using {port}.")
        for queue in QUEUES:
            for number in range(1, workers + 1):
                self.processes.start(f"rqworker-{queue}-{number}", "rqworker", queue)
        self.processes.start("runserver", "runserver", "--noreload", f"127.0.0.1:{port}")

        deadline = time.monotonic() + WEB_SERVER_START_SECONDS
        while not answers(port):
            self.restart_dead()
            if time.monotonic() > deadline:
                raise CommandError(f"The web server does not answer; see {self.logs}.")
            time.sleep(LOOK_INTERVAL_SECONDS)
        self.say(f"Search: http://127.0.0.1:{port}/")
        self.say(f"Admin:  http://127.0.0.1:{port}/admin/ ({admin_user()}, from this machine only)")

    def wait(self, feeding):
        """Draw the progress until no job is left to be done, or nothing moves any more."""
        state, moved_at = None, timezone.now()
        while True:
            before, state = state, feeding.state()
            self.display.show(state)
            if not state.unfinished:
                return
            # A job that waits for its next attempt is no stall.
            moved_at = max(moved_at if state == before else timezone.now(), state.next_attempt_at or moved_at)
            if timezone.now() - moved_at > STALL:
                raise CommandError(
                    f"Nothing has moved for {STALL.seconds} seconds; unfinished jobs: {state.unfinished}. "
                    f"Look at the jobs in the admin and at the workers' logs in {self.logs}."
                )
            self.restart_dead()
            time.sleep(LOOK_INTERVAL_SECONDS)

    def serve(self):
        try:
            while True:
                self.restart_dead()
                time.sleep(LOOK_INTERVAL_SECONDS)
        except KeyboardInterrupt:
            self.say("Stopping.")

    def restart_dead(self):
        for sentence in self.processes.restart_dead():
            self.say(sentence)

    def say(self, message):
        self.console.print(message, markup=False, highlight=False, soft_wrap=True)


def number_to(most):
    """The type of an option that is a whole number from 1 to `most`."""

    def number(text):
        if not text.isdecimal() or not 1 <= int(text) <= most:
            raise ArgumentTypeError(f"{text!r} is not a whole number from 1 to {most}")
        return int(text)

    return number


def admin_user():
    """Create the user admin with the password admin unless there is one, and tell how to log in."""
    users = get_user_model().objects
    user = users.filter(username="admin").first() or users.create_superuser("admin", password="admin")
    return "user admin, password admin" if user.check_password("admin") else "user admin, your password"
