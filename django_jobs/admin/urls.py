"""Pages of ours that are no model's: they belong to every site that shows jobs."""

from collections.abc import Callable
from functools import partial

from django.contrib.admin import AdminSite
from django.http.response import HttpResponseBase
from django.urls import URLPattern, path

from . import enqueue, queue_actions, queues, strip, workers


def extra_urls(site: AdminSite) -> list[URLPattern]:
    """Their URLs, named as Django's admin names its own."""

    def page(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
        return site.admin_view(partial(view, site=site))

    def region(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
        """Says itself what may be kept of it."""
        return site.admin_view(partial(view, site=site), cacheable=True)

    return [
        path("queues/", page(queues.queues_view), name="django_jobs_queues"),
        path("queues/region/", region(queues.queues_region), name="django_jobs_queues_region"),
        path("queues/of/<str:name>/", page(queues.queue_view), name="django_jobs_queue"),
        path("queues/of/<str:name>/region/", region(queues.queue_region), name="django_jobs_queue_region"),
        path("queues/of/<str:name>/pause/", page(queue_actions.pause_view), name="django_jobs_queue_pause"),
        path(
            "queues/of/<str:name>/resume/", page(queue_actions.resume_view), name="django_jobs_queue_resume"
        ),
        path("queues/of/<str:name>/empty/", page(queue_actions.empty_view), name="django_jobs_queue_empty"),
        path("queues/of/<str:name>/move/", page(queue_actions.move_view), name="django_jobs_queue_move"),
        path("workers/", page(workers.workers_view), name="django_jobs_workers"),
        path("workers/region/", region(workers.workers_region), name="django_jobs_workers_region"),
        path("workers/<uuid:worker_id>/quiet/", page(workers.quiet_view), name="django_jobs_worker_quiet"),
        path(
            "workers/<uuid:worker_id>/unquiet/", page(workers.unquiet_view), name="django_jobs_worker_unquiet"
        ),
        path("workers/<uuid:worker_id>/stop/", page(workers.stop_view), name="django_jobs_worker_stop"),
        path(
            "workers/job/<uuid:job_id>/stop/", page(workers.stop_job_view), name="django_jobs_worker_stop_job"
        ),
        path("enqueue/", page(enqueue.enqueue_view), name="django_jobs_enqueue"),
        path("enqueue/<str:name>/", page(enqueue.enqueue_task_view), name="django_jobs_enqueue_task"),
        path("strip/", region(strip.strip_view), name="django_jobs_strip"),
    ]
