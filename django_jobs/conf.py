"""Every setting of django_jobs: the keys of `settings.DJANGO_JOBS`, with type, default and unit."""

from datetime import timedelta
from typing import Any

from django.conf import settings as django_settings


class Settings:
    """Read on every use, so that `override_settings` works."""

    @property
    def ALLOWED_TASKS(self) -> list[str]:
        """Functions that may run besides every `@task`, the installed apps' and the project's own.

        Dotted paths of functions, or of modules and packages with everything below them. Defaults to [].
        """
        return list(self._get("ALLOWED_TASKS", []))

    @property
    def LEASE_SECONDS(self) -> float:
        """How long a worker counts as alive after its last sign of life. Defaults to 15 seconds.

        A shorter lease notices a lost worker sooner. A worker that is alive but paused or cut off for longer
        counts as lost too: the next attempt may run while its own still does.
        """
        return float(self._get("LEASE_SECONDS", 15))

    @property
    def lease(self) -> timedelta:
        return timedelta(seconds=self.LEASE_SECONDS)

    def given(self) -> Any:
        """What the project wrote, unchecked."""
        return getattr(django_settings, "DJANGO_JOBS", {})

    @classmethod
    def known_keys(cls) -> list[str]:
        return [name for name in vars(cls) if name.isupper()]

    def _get(self, key: str, default: Any) -> Any:
        given = self.given()
        return given.get(key, default) if isinstance(given, dict) else default


settings = Settings()
