"""What is done with a document in the background, and how: the place to see django_jobs at work.

Each task can be repeated harmlessly, because it replaces what it wrote before. Each computes first and
stores last, in one short transaction, so that many of them can run at once even on SQLite.
"""

import logging

from django.db import transaction
from django.utils import timezone

from django_jobs import Retry, progress, task

from . import vectors
from .chunking import chunks_of
from .models import Chunk, Document, Triple
from .triples import facts_in

logger = logging.getLogger(__name__)

RETRY = Retry(max=3, interval=[10, 60, 300])


@task(queue="file_processing", timeout=600, idempotent=True, retry=RETRY)
def process_file_chunking_and_vectorization_task(file_id):
    """Chunk a document, vectorize its chunks, and enqueue the extraction of its facts."""
    progress.declare("chunking", "vectorization", "storage", "kg_extraction")
    document = _document(file_id)
    if document is None:
        return {"deleted": True}

    chunks = _vectorized_chunks(document)

    progress.update(0, stage="storage")
    # One transaction: either the chunks are stored and the extraction is enqueued, or neither.
    with transaction.atomic():
        if not _lock(document):
            return {"deleted": True}
        _replace_chunks(document, chunks)
        process_kg_extraction_only_task.using(subject=document.subject).enqueue(document.pk)
    progress.update(100, stage="storage")
    logger.info("Chunks stored document=%r chunks=%d", document.name, len(chunks))
    return {"chunks": len(chunks), "vectors": _count_vectors(chunks)}


@task(queue="vectorization", timeout=600, idempotent=True, retry=RETRY)
def process_vectorization_only_task(file_id):
    """Vectorize the chunks of a document anew, with the term weights of the whole corpus as it is now."""
    progress.declare("vectorization", "storage")
    document = _document(file_id)
    if document is None:
        return {"deleted": True}

    chunks = list(document.chunks.all())
    _vectorize(document, chunks)

    progress.update(0, stage="storage")
    with transaction.atomic():
        if not _lock(document):
            return {"deleted": True}
        # Chunks replaced meanwhile are not found, and the task that replaced them has vectorized them.
        Chunk.objects.bulk_update(chunks, ["vector"], batch_size=100)
    progress.update(100, stage="storage")
    logger.info("Vectors stored document=%r vectors=%d", document.name, _count_vectors(chunks))
    return {"vectors": _count_vectors(chunks)}


@task(queue="kg_extraction", timeout=600, idempotent=True, retry=RETRY)
def process_kg_extraction_only_task(file_id, force_rechunk=False):
    """Extract the facts of a document from its chunks; with `force_rechunk`, chunk it anew before."""
    if force_rechunk:
        progress.declare("chunking", "vectorization", "storage", "kg_extraction")
    else:
        progress.declare("kg_extraction")
    document = _document(file_id)
    if document is None:
        return {"deleted": True}

    if force_rechunk:
        chunks = _vectorized_chunks(document)
        progress.update(0, stage="storage")
        with transaction.atomic():
            if not _lock(document):
                return {"deleted": True}
            _replace_chunks(document, chunks)
        progress.update(100, stage="storage")

    chunks = list(document.chunks.defer("vector"))
    triples = []
    for number, chunk in enumerate(chunks):
        progress.update(100 * number // len(chunks), stage="kg_extraction")
        triples += [Triple(chunk=chunk, **fact._asdict()) for fact in facts_in(chunk.text)]

    with transaction.atomic():
        if not _lock(document):
            return {"deleted": True}
        # If the chunks were replaced meanwhile, the task that did it has enqueued another extraction.
        present = set(document.chunks.values_list("pk", flat=True))
        triples = [triple for triple in triples if triple.chunk_id in present]
        Triple.objects.filter(chunk__document=document).delete()
        Triple.objects.bulk_create(triples, batch_size=100)
        Document.objects.filter(pk=document.pk).update(processed_at=timezone.now())
    progress.update(100, stage="kg_extraction", message=f"{len(triples)} facts")
    logger.info("Facts stored document=%r chunks=%d triples=%d", document.name, len(chunks), len(triples))
    return {"chunks": len(chunks), "triples": len(triples)}


def _document(file_id):
    """The document, or None if it was deleted: then there is nothing to do, and trying again is no use."""
    document = Document.objects.filter(pk=file_id).first()
    if document is None:
        logger.warning("Document %s was deleted; there is nothing to do", file_id)
    return document


def _lock(document):
    """Keep others from deleting or rewriting the document until commit; False if it was deleted."""
    return Document.objects.select_for_update().filter(pk=document.pk).only("pk").first() is not None


def _vectorized_chunks(document):
    progress.update(0, stage="chunking", message=f"{len(document.text):,} characters")
    texts = chunks_of(document.text)
    progress.update(100, stage="chunking", message=f"{len(texts)} chunks")
    chunks = [Chunk(document=document, position=position, text=text) for position, text in enumerate(texts)]
    _vectorize(document, chunks)
    return chunks


def _vectorize(document, chunks):
    """Set the chunks' vectors, weighing terms by all chunks stored now and these."""
    progress.update(0, stage="vectorization")
    texts = [chunk.text for chunk in chunks]
    others = Chunk.objects.exclude(document=document).values_list("vector", flat=True)
    weights = vectors.term_weights(vectors.unpack(others), vectors.term_counts(texts))
    progress.update(50, stage="vectorization", message="weights of the terms known")
    packed = vectors.pack(vectors.vectors_of(texts, weights))
    for chunk, vector in zip(chunks, packed, strict=True):
        chunk.vector = vector
    progress.update(100, stage="vectorization", message=f"{len(chunks)} vectors")


def _replace_chunks(document, chunks):
    document.chunks.all().delete()
    Chunk.objects.bulk_create(chunks, batch_size=100)


def _count_vectors(chunks):
    return sum(1 for chunk in chunks if chunk.vector)
