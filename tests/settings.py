"""The test project's settings for the tests themselves."""

from testproject.settings import *  # noqa: F403

DJANGO_JOBS = {"ALLOWED_TASKS": ["tests.tasks"]}
