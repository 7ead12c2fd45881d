"""Where rows are read: on the database that is written to."""

from typing import Any

from django.db import models, router


class PrimaryManager(models.Manager[Any]):
    """Reads from the database that writes go to.

    A replica lags: it would show a worker as silent that has just renewed its lease. Pages that may be late
    can still ask for one with `using()`.
    """

    def get_queryset(self) -> models.QuerySet[Any]:
        queryset = super().get_queryset()
        return queryset if self._db else queryset.using(router.db_for_write(self.model))
