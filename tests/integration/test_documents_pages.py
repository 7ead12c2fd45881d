import re

import pytest
from django.urls import reverse

from django_jobs.models import Job
from testproject.documents import tasks
from testproject.documents.models import Document

pytestmark = pytest.mark.django_db


PENDING = {"status": "pending", "progress": 0}


@pytest.fixture
def document():
    document = Document.objects.create(
        name="<b>rq</b>", text="RQ requires R & D money.\n\n    <script>alert(1)"
    )
    tasks.process_file_chunking_and_vectorization_task(document.pk)
    tasks.process_kg_extraction_only_task(document.pk)
    return document


def page(client, url, **query):
    response = client.get(url, query)
    assert response.status_code == 200
    return response.content.decode()


def test_without_documents_the_search_says_what_to_do(client):
    assert "No documents yet" in page(client, "/")


def test_without_documents_the_list_says_what_to_do(client):
    assert "No documents yet" in page(client, "/documents/")


def test_search_without_words_tells_what_it_searches(client, document):
    assert "chunks of 1 document that" in page(client, "/", q="  ")


def test_search_shows_the_nearest_chunk_with_its_document_similarity_and_facts(client, document):
    html = page(client, "/", q="alert")

    assert f'href="/documents/{document.pk}/"' in html
    assert "&lt;b&gt;rq&lt;/b&gt;" in html
    assert re.search(r"Similarity 0\.\d{3}", html)
    assert "RQ <em>requires</em> R &amp; D money" in html


def test_search_that_finds_nothing_says_so(client, document):
    assert "None of the 1 chunks" in page(client, "/", q="zyzzyva")


@pytest.mark.parametrize("query", ['"><script>alert(1)</script>', "{{ 7 }}", "\0", "é" * 600])
def test_search_escapes_its_words(client, document, query):
    html = page(client, "/", q=query)

    assert "<script" not in html


def test_list_counts_chunks_and_facts_with_a_fixed_number_of_queries(
    client, document, django_assert_num_queries
):
    for number in range(5):
        Document.objects.create(name=f"unprocessed {number}", text="RQ requires Redis.")

    with django_assert_num_queries(2):
        html = page(client, "/documents/")

    assert html.count('<td class="number">1</td>') == 2
    assert html.count('<td class="number">0</td>') == 10
    assert html.count("not yet") == 5


def test_list_has_pages(client):
    Document.objects.bulk_create(Document(name=f"{number:03}", text="") for number in range(60))

    assert "Page 1 of 2" in page(client, "/documents/")
    assert ">059<" in page(client, "/documents/", page=2)


def test_a_document_shows_the_stages_of_its_jobs_together(client, document):
    for stages in (
        {"chunking": {"status": "completed", "progress": 100}, "storage": PENDING},
        {"storage": {"status": "processing", "progress": 40}},
    ):
        job = tasks.process_vectorization_only_task.using(subject=document.subject).enqueue(document.pk)
        Job.objects.filter(pk=job.pk).update(stages=stages)

    html = page(client, f"/documents/{document.pk}/")

    assert re.search(r"chunking</label>.*?value=\"100\".*?completed, 100 %", html, re.DOTALL)
    assert re.search(r"storage</label>.*?value=\"40\".*?processing, 40 %", html, re.DOTALL)


def test_a_document_links_to_its_jobs_in_the_admin(admin_client, document):
    html = page(admin_client, f"/documents/{document.pk}/")
    [link] = re.findall(r'href="(/admin/django_jobs/job/[^"]*)"', html)

    tasks.process_vectorization_only_task.using(subject=f"{document.subject}0").enqueue(document.pk)
    response = admin_client.get(link)

    assert [row.subject for row in response.context["rows"]] == [document.subject]


def test_a_document_without_jobs_says_so(client):
    document = Document.objects.create(name="rq", text="RQ requires Redis.")

    html = page(client, f"/documents/{document.pk}/")

    assert "No job has worked on this document yet." in html
    assert "not processed yet" in html


def test_a_document_shows_its_chunks_escaped(client, document):
    html = page(client, f"/documents/{document.pk}/")

    assert "RQ requires R &amp; D money.\n\n    &lt;script&gt;alert(1)" in html
    assert "processed 2" in html


@pytest.mark.parametrize("key", [10**6, 10**30])
def test_an_unknown_document_is_not_found(client, key):
    assert client.get(f"/documents/{key}/").status_code == 404


def test_pages_need_neither_inline_style_nor_script(client, document):
    for url in ("/", "/?q=alert", "/documents/", f"/documents/{document.pk}/"):
        html = page(client, url)

        assert not re.search(r"<script|<style|\sstyle=|\son\w+=|javascript:|data:", html)


@pytest.mark.parametrize("model", ["document", "chunk", "triple"])
def test_the_admin_lists_searches_and_shows_the_rows_but_no_raw_vectors(admin_client, document, model):
    chunk = document.chunks.get()
    row = {"document": document, "chunk": chunk, "triple": chunk.triples.get()}[model]

    changelist = page(admin_client, reverse(f"admin:documents_{model}_changelist"), q="r")
    form = page(admin_client, reverse(f"admin:documents_{model}_change", args=[row.pk]))

    assert f"1 {model}" in changelist
    assert "vector" not in form
