import pytest

from django_jobs.models import Job
from testproject.documents.corpus import Source
from testproject.documents.feeding import Feeding, InWork, Row, rows, unprocessed
from testproject.documents.models import Document
from testproject.documents.tasks import (
    process_file_chunking_and_vectorization_task,
    process_kg_extraction_only_task,
)

pytestmark = pytest.mark.django_db

SOURCES = [Source("rq", "RQ requires Redis."), Source("cats", "Cats sleep.")]


def end_all(status="finished"):
    Job.objects.unfinished().update(status=status)


def process(source):
    document = Document.objects.get(name=source.name)
    process_file_chunking_and_vectorization_task(document.pk)
    process_kg_extraction_only_task(document.pk)


def test_each_document_is_stored_with_its_job():
    Feeding().process(SOURCES)

    assert list(Document.objects.values_list("name", "text")) == [
        ("cats", "Cats sleep."),
        ("rq", "RQ requires Redis."),
    ]
    assert set(Job.objects.on_queue("file_processing").values_list("subject", flat=True)) == {
        document.subject for document in Document.objects.all()
    }


def test_a_document_with_an_unfinished_job_is_waited_for_but_not_enqueued_twice():
    Feeding().process(SOURCES)

    again = Feeding()
    again.process(SOURCES)

    assert Job.objects.count() == 2
    assert again.state().unfinished == 2


def test_a_document_whose_job_failed_is_enqueued_again():
    Feeding().process(SOURCES)
    end_all("failed")

    again = Feeding()
    again.process(SOURCES)

    assert again.state().counts == {"file_processing": {"queued": 2}}


def test_a_processed_document_is_not_processed_again_unless_its_text_has_changed():
    Feeding().process(SOURCES)
    for source in SOURCES:
        process(source)
    end_all()

    again = Feeding()
    again.process([SOURCES[0], Source("cats", "Cats run.")])

    job = Job.objects.unfinished().get()
    assert job.args == [Document.objects.get(name="cats").pk]
    assert unprocessed(SOURCES) == ["cats"]


def test_all_documents_are_vectorized_anew_but_those_that_still_are():
    Feeding().process(SOURCES)
    end_all()
    feeding = Feeding()

    feeding.vectorize_anew()
    feeding.vectorize_anew()

    assert feeding.state().counts == {"vectorization": {"queued": 2}}


def test_state_tells_the_files_in_work():
    feeding = Feeding()
    feeding.process(SOURCES)
    job = Job.objects.get(subject=Document.objects.get(name="rq").subject)
    Job.objects.filter(pk=job.pk).update(status="started", stage="chunking", progress=40)

    state = feeding.state()

    assert state.in_work == [InWork("rq", "file_processing", "chunking", 40)]
    assert state.total("started") == state.total("queued") == 1
    assert state.next_attempt_at is None


def test_a_job_that_did_not_finish_is_named_with_its_document_and_error():
    feeding = Feeding()
    feeding.process(SOURCES[:1])
    Job.objects.update(status="failed", error_type="ValueError", error_message="no good")
    key = Document.objects.get().pk

    [line] = feeding.not_finished()

    assert line.endswith(
        f"process_file_chunking_and_vectorization_task({key}) (rq) is failed ValueError no good"
    )


def test_rows_count_what_is_stored():
    Feeding().process(SOURCES)
    process(SOURCES[0])

    assert rows(SOURCES) == [Row("rq", 1, 1, 1), Row("cats", 0, 0, 0)]
    assert unprocessed(SOURCES) == ["cats"]
