"""Cuts a document's text into chunks at the best boundaries: paragraphs, then sentences, then words."""

from semantic_text_splitter import TextSplitter

from .markup import plain_text

CHARACTERS = (300, 900)


def chunks_of(text):
    """Return the chunks of the text, without markup, in order; none is longer than 900 characters."""
    # Untrimmed, because a code line is recognized by its indentation.
    parts = TextSplitter(CHARACTERS, trim=False).chunks(plain_text(text))
    return [part.strip("\n").rstrip() for part in parts if part.strip()]
