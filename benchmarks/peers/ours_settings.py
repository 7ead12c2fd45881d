"""The test project without its app and pages, which a worker does not need."""

from testproject.settings import *  # noqa: F403
from testproject.settings import INSTALLED_APPS, LOGGING

DEBUG = False
INSTALLED_APPS = [app for app in INSTALLED_APPS if app != "testproject.documents"]
ROOT_URLCONF = "tests.worker_urls"
LOGGING = {**LOGGING, "root": {**LOGGING["root"], "level": "WARNING"}}
DJANGO_JOBS = {"ALLOWED_TASKS": ["benchmarks"]}
