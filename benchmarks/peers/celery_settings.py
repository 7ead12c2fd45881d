"""For results of Celery in the database."""

from benchmarks.settings import *  # noqa: F403

INSTALLED_APPS = ["django_celery_results"]
