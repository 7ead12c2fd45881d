"""The fixtures `run_jobs` and `enqueued_jobs`, for pytest with pytest-django.

Imports nothing of Django until a test uses one: pytest loads this module in projects without Django as well.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .models import Job
    from .testing import EnqueuedJobs


@pytest.fixture
def run_jobs(db: None, _django_jobs_withheld: None) -> "Callable[..., list[Job]]":
    """Run what was enqueued in this test, in this process: `run_jobs()`. Nothing is pushed to a server."""
    from . import testing

    return testing.run_jobs


@pytest.fixture
def enqueued_jobs(db: None, _django_jobs_withheld: None) -> "EnqueuedJobs":
    """What was enqueued in this test: `enqueued_jobs.one(task, args=[42])`. Nothing is pushed to a server."""
    from . import testing

    return testing.enqueued_jobs


@pytest.fixture
def _django_jobs_withheld(db: None) -> Iterator[None]:
    from . import relay

    with relay.withheld():
        yield
