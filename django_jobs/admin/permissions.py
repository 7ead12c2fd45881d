"""What a user's permissions are worth here."""

from typing import Any

from ..visibility import sees_all

OF_ALL = frozenset({"view_queue", "view_worker", "view_errorgroup"})
"""Permissions to see what is told of all jobs; they are worth nothing to those who may see some jobs only."""


def holds(user: Any, *codenames: str) -> bool:
    """Whether a user has all of these permissions, and they are worth something."""
    return all(user.has_perm(f"django_jobs.{codename}") for codename in codenames) and (
        OF_ALL.isdisjoint(codenames) or sees_all(user)
    )
