"""`manage.py jobs_resume QUEUE…`: let the jobs of paused queues start again."""

from ... import control
from .jobs_pause import Command as PauseCommand


class Command(PauseCommand):
    help = "Resume queues that jobs_pause has paused."
    verb = staticmethod(control.resume)
    changed, unchanged = "is resumed", "was not paused"
