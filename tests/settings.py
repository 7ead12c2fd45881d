"""The test project's settings for the tests themselves."""

from testproject.settings import *  # noqa: F403
from testproject.settings import DATABASES as ITS_OWN

DJANGO_JOBS = {"ALLOWED_TASKS": ["tests.tasks"], "SPOOL_DIRECTORY": PROJECT_DATA / "spool"}  # noqa: F405

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # A good one takes a third of a second.

_IN_MEMORY = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:", "TEST": {"MIGRATE": False}}
DATABASES = {**ITS_OWN, "other": _IN_MEMORY, "third": _IN_MEMORY}  # Where jobs are not.
