"""Feeds documents to the tasks, and tells how far their jobs are."""

from dataclasses import dataclass
from datetime import datetime

from django.db import transaction
from django.db.models import Count, Min, Q
from uuid6 import uuid7

from django_jobs.models import Job

from .models import Chunk, Document, Triple
from .tasks import process_file_chunking_and_vectorization_task, process_vectorization_only_task

DOCUMENT_JOBS = Q(subject__startswith="file:")
SHOWN_IN_WORK = 12


@dataclass(frozen=True)
class InWork:
    name: str
    queue: str
    stage: str
    percent: int


@dataclass(frozen=True)
class State:
    counts: dict[str, dict[str, int]]
    """Jobs by queue and status."""
    in_work: list[InWork]
    next_attempt_at: datetime | None

    def total(self, *statuses):
        return sum(by_status.get(status, 0) for by_status in self.counts.values() for status in statuses)

    @property
    def unfinished(self):
        return self.total("queued", "scheduled", "deferred", "started")


@dataclass(frozen=True)
class Row:
    name: str
    chunks: int
    vectors: int
    triples: int


class Feeding:
    """One run over some documents: its jobs are those it enqueues and those it finds unfinished."""

    def __init__(self):
        unfinished = Job.objects.filter(DOCUMENT_JOBS).unfinished()
        # Ids grow with time.
        self._jobs = DOCUMENT_JOBS & Q(
            Q(id__gte=uuid7()) | Q(id__in=list(unfinished.values_list("id", flat=True)))
        )

    def process(self, sources):
        """Store the documents and enqueue the processing of those that are not processed nor being so."""
        busy = self._busy()
        for source in sources:
            # One transaction: either the document is stored and its job is enqueued, or neither.
            with transaction.atomic():
                document, _ = Document.objects.get_or_create(name=source.name, defaults={"text": source.text})
                changed = document.text != source.text
                if changed:
                    document.text, document.processed_at = source.text, None
                    document.save()
                if changed or (document.processed_at is None and document.subject not in busy):
                    task = process_file_chunking_and_vectorization_task.using(subject=document.subject)
                    task.enqueue(document.pk)

    def vectorize_anew(self):
        """Enqueue the vectorization of all documents, because now the weights of all terms are known."""
        busy = self._busy()
        with transaction.atomic():
            for document in Document.objects.only("pk"):
                if document.subject not in busy:
                    process_vectorization_only_task.using(subject=document.subject).enqueue(document.pk)

    def state(self):
        jobs = Job.objects.filter(self._jobs)
        counts = {}
        for queue, status, number in jobs.order_by().values_list("queue", "status").annotate(Count("pk")):
            counts.setdefault(queue, {})[status] = number
        started = jobs.started().order_by("id")[:SHOWN_IN_WORK]
        names = names_of(job.subject for job in started)
        return State(
            counts,
            [InWork(names[job.subject], job.queue, job.stage, job.progress) for job in started],
            jobs.scheduled().aggregate(Min("scheduled_for"))["scheduled_for__min"],
        )

    def not_finished(self):
        """A line about each job that did not end well."""
        jobs = list(Job.objects.filter(self._jobs).exclude(status="finished").order_by("id"))
        names = names_of(job.subject for job in jobs)
        return [
            f"{job.call} ({names[job.subject]}) is {job.status} {job.error_type} {job.error_message}".rstrip()
            for job in jobs
        ]

    def _busy(self):
        """The subjects of the unfinished jobs."""
        return set(Job.objects.filter(DOCUMENT_JOBS).unfinished().values_list("subject", flat=True))


def names_of(subjects):
    """The names of the documents by their subject; of a deleted document, the subject itself."""
    names = {subject: subject for subject in subjects}
    keys = [int(subject.removeprefix("file:")) for subject in names]
    return names | {
        document.subject: document.name for document in Document.objects.filter(pk__in=keys).only("name")
    }


def rows(sources):
    """What the database holds of each document."""
    return [
        Row(
            source.name,
            Chunk.objects.filter(document__name=source.name).count(),
            Chunk.objects.filter(document__name=source.name).exclude(vector=b"").count(),
            Triple.objects.filter(chunk__document__name=source.name).count(),
        )
        for source in sources
    ]


def unprocessed(sources):
    """The names of the documents whose facts are not stored."""
    done = set(Document.objects.filter(processed_at__isnull=False).values_list("name", flat=True))
    return [source.name for source in sources if source.name not in done]
