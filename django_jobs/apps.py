"""The Django app: connects the checks and the receivers that log."""

from django.apps import AppConfig
from django.conf import settings
from django.utils.translation import gettext_lazy as _


class JobsConfig(AppConfig):
    name = "django_jobs"
    verbose_name = _("Background jobs")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from . import checks, signals  # noqa: F401
        from .environment import default_rq_queues

        if not hasattr(settings, "RQ_QUEUES"):
            settings.RQ_QUEUES = default_rq_queues()
