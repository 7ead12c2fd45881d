"""The test project's settings for worker processes of tests: the test database, a short lease."""

from testproject.settings import *  # noqa: F403

DJANGO_JOBS = {"LEASE_SECONDS": 3, "ALLOWED_TASKS": ["tests.tasks"]}
