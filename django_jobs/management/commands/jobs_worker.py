"""`manage.py jobs_worker`: the same command as `rqworker`, under a name that no other app has."""

from .rqworker import Command

__all__ = ["Command"]
