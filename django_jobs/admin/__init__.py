"""The pages of django_jobs in Django's admin. They hold no rules: actions call `control`."""

from . import attempts, jobs  # noqa: F401
