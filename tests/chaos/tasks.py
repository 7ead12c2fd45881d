"""What the jobs do: tell that they live, for a while, and end as asked."""

import os
import time

from django_jobs import current_job, task

from .effects import BEGAN, BROKE, DONE, LIVES, PLANNED, WELL, WELL_AT_LAST, Effects

TICK_SECONDS = 0.2


@task(queue="file_processing")
def work(seconds: float, end: str) -> int:
    """Work for so many seconds. Raises `ValueError` if it is to end badly."""
    job = current_job()
    assert job
    effects = Effects(os.environ["CHAOS_EFFECTS"], job.pk, job.attempt)
    effects.tell(BEGAN)
    over_at = time.monotonic() + seconds
    try:
        while (left := over_at - time.monotonic()) > 0:
            time.sleep(min(left, TICK_SECONDS))
            effects.tell(LIVES)
    except Exception as error:  # Its time limit.
        effects.tell(BROKE)
        effects.close()
        raise ValueError(PLANNED) from error
    ends_well = end == WELL or (end == WELL_AT_LAST and job.attempt >= job.max_attempts)
    effects.tell(DONE if ends_well else BROKE)
    effects.close()
    if not ends_well:
        raise ValueError(PLANNED)
    return job.attempt
