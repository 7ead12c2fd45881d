"""The test project's settings for worker processes of tests: the test database, a short lease.

Without the app `documents` and its pages, whose libraries take a second to import.
"""

import os

from testproject.settings import *  # noqa: F403
from testproject.settings import INSTALLED_APPS as ALL_APPS

INSTALLED_APPS = [app for app in ALL_APPS if app != "testproject.documents"]
if os.environ.get("CRASH_AT"):
    INSTALLED_APPS += ["tests.faults.crashing.Crashing"]
ROOT_URLCONF = "tests.worker_urls"
if os.environ.get("DATABASE_POOL"):
    DATABASES["default"]["OPTIONS"] = {"pool": True}  # noqa: F405

DJANGO_JOBS = {
    "LEASE_SECONDS": float(os.environ.get("LEASE_SECONDS", "10")),
    "ALLOWED_TASKS": ["tests.tasks"],
    "SPOOL_DIRECTORY": PROJECT_DATA / "spool",  # noqa: F405
}
if os.environ.get("PLAIN_JOBS"):
    DJANGO_JOBS["PLAIN_JOBS"] = os.environ["PLAIN_JOBS"]
