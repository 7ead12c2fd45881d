"""The pages of django_jobs in Django's admin. They hold no rules: actions call `control`."""

from . import attempts, errors, jobs, operations  # noqa: F401
