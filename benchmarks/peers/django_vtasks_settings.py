"""For django-vtasks on Valkey, its faster backend, which keeps no results."""

import os

from benchmarks.settings import *  # noqa: F403

INSTALLED_APPS = ["django_vtasks"]
TASKS = {
    "default": {
        "BACKEND": "django_vtasks.backends.valkey.ValkeyTaskBackend",
        "OPTIONS": {"BROKER_URL": os.environ["REDIS_URL"]},
    }
}
