"""How far a job is: its percentage, a message, and the stages it goes through."""

from collections.abc import Iterable
from numbers import Real
from typing import Any, Protocol, Self

from .values import kept_begin, short

STAGE_LIMIT = 100  # characters of a stage's name
MESSAGE_LIMIT = 1000  # characters


class Told(Protocol):
    progress: Any
    progress_message: Any
    stage: Any
    stages: Any
    stage_names: Any


class Stages:
    """The state of a job's progress. With stages, the percentage is their mean.

    Cheap to update: texts are cut and means taken when `fields()` is asked for. Not thread-safe.
    """

    def __init__(self) -> None:
        self._percent = 0.0
        self._message = ""
        self._stage = ""
        self._stages: dict[str, float | None] = {}  # {name: percentage, None while pending}
        self._is_overall = True  # The percentage was given, not that of a stage.

    @classmethod
    def of(cls, job: Told) -> Self:
        """What a row tells."""
        stages = cls()
        stages._percent = job.progress
        stages._message = job.progress_message
        stages._stage = job.stage
        for name in job.stage_names:
            told = job.stages[name]
            stages._stages[name] = None if told["status"] == "pending" else told["progress"]
        return stages

    def declare(self, names: Iterable[str]) -> None:
        for name in names:
            self._stages.setdefault(name, None)

    def update(self, percent: float, message: str | None, stage: str | None) -> None:
        if message is not None:
            self._message = message
        if stage is None:
            self._percent = percent
            self._is_overall = True
        else:
            self._stage = stage
            self._stages[stage] = percent
            self._is_overall = False

    def fields(self) -> dict[str, Any]:
        """The state as fields of the row."""
        stages = {short(name, STAGE_LIMIT): _stage(percent) for name, percent in self._stages.items()}
        percent = int(self._percent)
        if not self._is_overall:
            percent = sum(stage["progress"] for stage in stages.values()) // len(stages)
        return {
            "progress": percent,
            "progress_message": kept_begin(str(self._message), MESSAGE_LIMIT),
            "stage": short(self._stage, STAGE_LIMIT),
            "stages": stages,
            "stage_names": list(stages),
        }


def check_percent(percent: object) -> None:
    """Raise `ValueError` for anything but a number from 0 to 100."""
    if not isinstance(percent, Real) or isinstance(percent, bool) or not 0 <= percent <= 100:  # type: ignore[operator]
        raise ValueError(f"Progress {percent!r}: give a percentage, a number from 0 to 100.")


def _stage(percent: float | None) -> dict[str, Any]:
    if percent is None:
        return {"status": "pending", "progress": 0}
    return {"status": "completed" if percent == 100 else "processing", "progress": int(percent)}
