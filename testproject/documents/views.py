"""The search page, the list of documents, and a document with how far its jobs are."""

from django.core.paginator import Paginator
from django.db.models import Count, OuterRef, Subquery
from django.db.models.functions import Coalesce
from django.shortcuts import get_object_or_404, render

from django_jobs.models import Job

from .models import Chunk, Document, Triple

RESULTS = 10
DOCUMENTS_PER_PAGE = 50
CHUNKS_PER_PAGE = 20


def search(request):
    from .vectors import nearest  # Here, as scikit-learn takes two seconds and no other page needs it.

    query = request.GET.get("q", "").strip()
    return render(
        request,
        "documents/search.html",
        {
            "query": query,
            "matches": nearest(query, RESULTS) if query else [],
            "documents": Document.objects.count(),
            "chunks": Chunk.objects.count(),
        },
    )


def document_list(request):
    documents = Document.objects.defer("text").annotate(
        chunk_count=_count(Chunk.objects.filter(document=OuterRef("pk")), "document"),
        triple_count=_count(Triple.objects.filter(chunk__document=OuterRef("pk")), "chunk__document"),
    )
    page = Paginator(documents, DOCUMENTS_PER_PAGE).get_page(request.GET.get("page"))
    return render(request, "documents/document_list.html", {"page": page})


def document_detail(request, pk):
    document = get_object_or_404(Document, pk=pk)
    chunks = Paginator(document.chunks.defer("vector").prefetch_related("triples"), CHUNKS_PER_PAGE)
    return render(
        request,
        "documents/document_detail.html",
        {
            "document": document,
            "stages": Job.objects.for_subject(document.subject).stages(),
            "page": chunks.get_page(request.GET.get("page")),
            "triple_count": Triple.objects.filter(chunk__document=document).count(),
        },
    )


def _count(rows, group):
    """Count in a subquery, because two counts over two joins would multiply."""
    counts = rows.order_by().values(group).annotate(number=Count("pk")).values("number")
    return Coalesce(Subquery(counts), 0)
