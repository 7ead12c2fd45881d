import pytest

from testproject.documents.chunking import CHARACTERS, chunks_of
from testproject.documents.markup import plain_text

MARKDOWN = """\
# Rich

[![A badge](https://example.org/badge.svg)](https://example.org) ![Logo](logo.png)

**Rich** is a [library](https://example.org/rich)
for `rich` text & more.<br>

* works with Linux
* works with _macOS_

| Name | Size |
|------|------|
| one  | 1    |

```python
print("**kept**")
```

After the code.
"""

REST = """\
====
RQ
====

.. image:: https://example.org/badge.svg
   :target: https://example.org

.. |badge| image:: https://example.org/other.svg

|badge| RQ is a `simple library <https://example.org>`_ with :class:`~rq.Queue`::

    queue = Queue("*default*")

.. note::
   It requires Redis [1]_.

The end_of a name stays.
"""


def test_short_text_is_one_chunk():
    assert chunks_of("RQ is a library.") == ["RQ is a library."]


@pytest.mark.parametrize("text", ["", " \n\t\n", "====\n----\n"])
def test_a_text_without_words_has_no_chunks(text):
    assert chunks_of(text) == []


def test_chunks_are_of_the_promised_length_and_keep_every_word_in_order():
    words = [f"word{number}" for number in range(2000)]
    paragraphs = [" ".join(words[start : start + 20]) + "." for start in range(0, 2000, 20)]

    chunks = chunks_of("\n\n".join(paragraphs))

    assert len(chunks) > 10
    assert max(map(len, chunks)) <= CHARACTERS[1]
    assert " ".join(chunks).replace(".", "").split() == words


def test_a_chunk_ends_where_a_paragraph_ends():
    paragraph = "A sentence of some length stands here. " * 10

    chunks = chunks_of("\n\n".join([paragraph.strip()] * 6))

    assert all(chunk.startswith("A sentence") and chunk.endswith("here.") for chunk in chunks)


def test_markdown_becomes_plain_text_with_indented_code():
    paragraphs = plain_text(MARKDOWN).split("\n\n")

    assert paragraphs == [
        "Rich",
        "Rich is a library for rich text & more.",
        "- works with Linux",
        "- works with macOS",
        "Name | Size",
        "one | 1",
        '    print("**kept**")',
        "After the code.",
    ]


def test_rest_becomes_plain_text_with_indented_code():
    paragraphs = plain_text(REST).split("\n\n")

    assert paragraphs == [
        "RQ",
        "RQ is a simple library with rq.Queue:",
        '    queue = Queue("*default*")',
        "It requires Redis.",
        "The end_of a name stays.",
    ]
