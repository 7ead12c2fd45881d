"""The pages of django_jobs in Django's admin. They hold no rules: actions call `control`."""

from . import attempts, dashboard, errors, jobs, operations  # noqa: F401
