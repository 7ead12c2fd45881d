"""Django's own admin for the documents; their jobs are in the admin of django_jobs."""

from django.contrib import admin

from .models import Chunk, Document, Triple


@admin.register(Document)
class DocumentAdmin(admin.ModelAdmin):
    list_display = ["name", "created_at", "processed_at"]
    search_fields = ["name"]
    date_hierarchy = "created_at"
    readonly_fields = ["created_at", "processed_at"]


@admin.register(Chunk)
class ChunkAdmin(admin.ModelAdmin):
    list_display = ["document", "position", "text_start", "vector_bytes"]
    list_display_links = ["position"]
    list_select_related = ["document"]
    search_fields = ["text", "document__name"]
    autocomplete_fields = ["document"]
    exclude = ["vector"]

    @admin.display(description="text")
    def text_start(self, chunk):
        return chunk.text[:100]

    def vector_bytes(self, chunk):
        return len(chunk.vector)


@admin.register(Triple)
class TripleAdmin(admin.ModelAdmin):
    list_display = ["subject", "relation", "object", "document"]
    list_filter = ["relation"]
    list_select_related = ["chunk__document"]
    search_fields = ["subject", "object", "chunk__document__name"]
    autocomplete_fields = ["chunk"]

    @admin.display(ordering="chunk__document__name")
    def document(self, triple):
        return triple.chunk.document
