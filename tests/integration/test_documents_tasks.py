"""The tasks, called as the plain functions they are."""

import pytest
from django.db import IntegrityError

from django_jobs.models import Job
from testproject.documents import tasks
from testproject.documents.models import Chunk, Document, Triple
from testproject.documents.vectors import nearest

pytestmark = pytest.mark.django_db

TEXT = "\n\n".join(
    [
        "# RQ",
        "RQ is a library for queues. It requires Redis. " + "Workers take jobs from queues. " * 10,
        "Django integrates with RQ. " + "Settings name each queue and its server. " * 10,
    ]
)
TASKS = [
    tasks.process_file_chunking_and_vectorization_task,
    tasks.process_vectorization_only_task,
    tasks.process_kg_extraction_only_task,
]


@pytest.fixture
def document():
    return Document.objects.create(name="rq", text=TEXT)


def chunks_of(document):
    return list(document.chunks.values_list("position", "text", "vector"))


def triples_of(document):
    rows = Triple.objects.filter(chunk__document=document)
    return list(rows.values_list("chunk__position", "subject", "relation", "object"))


def test_processing_stores_chunks_with_vectors_and_enqueues_the_extraction(document):
    result = tasks.process_file_chunking_and_vectorization_task(document.pk)

    assert result == {"chunks": 2, "vectors": 2}
    assert [position for position, _, _ in chunks_of(document)] == [0, 1]
    job = Job.objects.for_subject(document.subject).get()
    assert (job.queue, job.status, job.args) == ("kg_extraction", "queued", [document.pk])
    assert job.task.endswith("process_kg_extraction_only_task")


def test_processing_that_cannot_store_enqueues_nothing(document, monkeypatch):
    def fail(*args, **kwargs):
        raise IntegrityError("refused")

    monkeypatch.setattr(Chunk.objects, "bulk_create", fail)

    with pytest.raises(IntegrityError):
        tasks.process_file_chunking_and_vectorization_task(document.pk)

    assert not Job.objects.exists()


def test_processing_that_cannot_enqueue_stores_nothing(document, monkeypatch):
    tasks.process_file_chunking_and_vectorization_task(document.pk)
    before = list(document.chunks.values_list("pk", flat=True))

    def fail(*args, **kwargs):
        raise RuntimeError("refused")

    monkeypatch.setattr(tasks.process_kg_extraction_only_task, "using", fail)
    with pytest.raises(RuntimeError):
        tasks.process_file_chunking_and_vectorization_task(document.pk)

    assert list(document.chunks.values_list("pk", flat=True)) == before


def test_extraction_stores_the_facts_of_each_chunk_and_marks_the_document_processed(document):
    tasks.process_file_chunking_and_vectorization_task(document.pk)

    result = tasks.process_kg_extraction_only_task(document.pk)

    assert result == {"chunks": 2, "triples": 3}
    assert triples_of(document) == [
        (0, "RQ", "is a", "library for queues"),
        (0, "RQ", "requires", "Redis"),
        (1, "Django", "integrates with", "RQ"),
    ]
    document.refresh_from_db()
    assert document.processed_at is not None


@pytest.mark.parametrize("task", TASKS)
def test_a_task_repeated_leaves_the_same_rows(document, task):
    tasks.process_file_chunking_and_vectorization_task(document.pk)
    tasks.process_kg_extraction_only_task(document.pk)

    first = task(document.pk)
    rows = chunks_of(document), triples_of(document)
    second = task(document.pk)

    assert second == first
    assert (chunks_of(document), triples_of(document)) == rows


def test_extraction_with_force_rechunk_chunks_the_present_text(document):
    tasks.process_file_chunking_and_vectorization_task(document.pk)
    Document.objects.filter(pk=document.pk).update(text="Celery is a task queue.")

    result = tasks.process_kg_extraction_only_task(document.pk, force_rechunk=True)

    assert result == {"chunks": 1, "triples": 1}
    assert [text for _, text, _ in chunks_of(document)] == ["Celery is a task queue."]
    assert triples_of(document) == [(0, "Celery", "is a", "task queue")]


def test_extraction_without_force_rechunk_keeps_the_chunks(document):
    tasks.process_file_chunking_and_vectorization_task(document.pk)
    before = chunks_of(document)
    Document.objects.filter(pk=document.pk).update(text="Celery is a task queue.")

    tasks.process_kg_extraction_only_task(document.pk)

    assert chunks_of(document) == before


def test_vectorization_weighs_terms_by_the_corpus_as_it_is_now(document):
    tasks.process_file_chunking_and_vectorization_task(document.pk)
    before = chunks_of(document)
    for number in range(5):
        other = Document.objects.create(name=f"other {number}", text="Queues, queues and jobs.")
        tasks.process_file_chunking_and_vectorization_task(other.pk)

    result = tasks.process_vectorization_only_task(document.pk)

    after = chunks_of(document)
    assert result == {"vectors": 2}
    assert [chunk[:2] for chunk in after] == [chunk[:2] for chunk in before]
    assert all(new[2] != old[2] for new, old in zip(after, before, strict=True))


@pytest.mark.parametrize("task", TASKS)
def test_a_deleted_document_is_nothing_to_do(document, task, caplog):
    key = document.pk
    document.delete()

    assert task(key) == {"deleted": True}

    assert "was deleted" in caplog.text
    assert not Job.objects.exists()


@pytest.mark.parametrize("task", TASKS)
def test_a_document_deleted_while_the_task_computes_leaves_nothing(document, task, monkeypatch):
    tasks.process_file_chunking_and_vectorization_task(document.pk)
    Job.objects.all().delete()
    lock = tasks._lock

    def delete_then_lock(locked):
        Document.objects.filter(pk=locked.pk).delete()
        return lock(locked)

    monkeypatch.setattr(tasks, "_lock", delete_then_lock)

    assert task(document.pk) == {"deleted": True}

    assert not Chunk.objects.exists()
    assert not Job.objects.exists()


def test_a_document_without_words_has_neither_chunks_nor_facts():
    document = Document.objects.create(name="empty", text=" \n")

    assert tasks.process_file_chunking_and_vectorization_task(document.pk) == {"chunks": 0, "vectors": 0}
    assert tasks.process_vectorization_only_task(document.pk) == {"vectors": 0}
    assert tasks.process_kg_extraction_only_task(document.pk) == {"chunks": 0, "triples": 0}


def test_nearest_finds_the_chunk_that_is_about_the_query(document):
    cats = Document.objects.create(name="cats", text="Cats sleep on warm stones.")
    for each in (document, cats):
        tasks.process_file_chunking_and_vectorization_task(each.pk)

    [match] = nearest("where do CATS sleep?", limit=3)

    assert (match.chunk.document, match.chunk.text) == (cats, "Cats sleep on warm stones.")
    assert 0.5 < match.similarity < 1


def test_nearest_gives_the_most_similar_first_and_no_more_than_asked(document):
    for name, text in [("a", "Redis and cats."), ("b", "Redis."), ("c", "Redis, stones, cats.")]:
        other = Document.objects.create(name=name, text=text)
        tasks.process_file_chunking_and_vectorization_task(other.pk)

    matches = nearest("redis", limit=2)

    assert [match.chunk.document.name for match in matches] == ["b", "a"]
    assert matches[0].similarity == pytest.approx(1)
    assert matches[0].similarity > matches[1].similarity


@pytest.mark.parametrize("query", ["", "the of and", "zyzzyva", "!?"])
def test_nearest_finds_nothing_for_a_query_without_a_known_word(document, query):
    tasks.process_file_chunking_and_vectorization_task(document.pk)

    assert nearest(query, limit=3) == []


def test_nearest_finds_nothing_in_an_empty_corpus():
    assert nearest("redis", limit=3) == []
