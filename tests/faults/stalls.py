"""Tests of leases on a machine that may stand still for longer than one lasts."""

import threading
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

import pytest

TICK_SECONDS = 0.05


def unless_stalled(seconds: float) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Skip a test that fails after the whole machine stood still for so long: then workers rightly give up
    their jobs, as they cannot know what others did meanwhile."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @wraps(test)
        def run(*args: Any, **kwargs: Any) -> None:
            ended, gaps = threading.Event(), [0.0]

            def look() -> None:
                at = time.monotonic()
                while not ended.wait(TICK_SECONDS):
                    before, at = at, time.monotonic()
                    gaps.append(at - before)

            looking = threading.Thread(target=look, daemon=True)
            looking.start()
            try:
                test(*args, **kwargs)
            except Exception as error:
                if max(gaps) > seconds:
                    pytest.skip(
                        f"The machine stood still for {max(gaps):.1f} s, and this says nothing: {error}"
                    )
                raise
            finally:
                ended.set()
                looking.join()

        return run

    return decorate
