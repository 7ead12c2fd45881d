"""What the tasks read and write: a document, its chunks with their vectors, and the facts found in them."""

from django.db import models


class Document(models.Model):
    name = models.CharField(max_length=500, unique=True, help_text="A package's name or a file's path.")
    text = models.TextField(help_text="As it was read, with its Markdown or reST markup.")
    created_at = models.DateTimeField(auto_now_add=True)
    processed_at = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="When its facts were stored; empty: still to do."
    )

    class Meta:
        ordering = ["name"]

    def __str__(self):
        return self.name

    @property
    def subject(self):
        """What its jobs are about, for `task.using(subject=…)` and `Job.objects.for_subject(…)`."""
        return f"file:{self.pk}"


class Chunk(models.Model):
    document = models.ForeignKey(Document, on_delete=models.CASCADE, related_name="chunks")
    position = models.PositiveIntegerField()
    text = models.TextField(help_text="Plain text; code is indented.")
    vector = models.BinaryField(help_text="Packed by vectors.pack().")

    class Meta:
        ordering = ["document", "position"]
        constraints = [
            models.UniqueConstraint(fields=["document", "position"], name="documents_chunk_position")
        ]

    def __str__(self):
        return f"{self.document_id}, chunk {self.position}"


class Triple(models.Model):
    """One fact: subject, relation, object."""

    chunk = models.ForeignKey(Chunk, on_delete=models.CASCADE, related_name="triples")
    subject = models.CharField(max_length=200)
    relation = models.CharField(max_length=50)
    object = models.CharField(max_length=200)

    class Meta:
        ordering = ["chunk", "pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["chunk", "subject", "relation", "object"], name="documents_triple_once_per_chunk"
            )
        ]

    def __str__(self):
        return f"{self.subject} {self.relation} {self.object}"
