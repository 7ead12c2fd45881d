"""Which jobs are meant: a search in words, and its jobs in pages at a bounded cost.

    args.file_id:42 status:failed -queue:mail error:"could not connect" since:2h

A page never reads all rows, whatever is asked. Where one index answers the whole search, a page is a stretch
of it. Otherwise the newest `MOST_LOOKED_THROUGH` rows of the index that reaches furthest back are looked
through, and the page tells to which moment; "older" goes on from there.
"""

from .conditions import WORD, Condition
from .language import QUALIFIERS, Search, among_arguments, asked_for, parse, replaced, without_arguments
from .pages import MOST_LISTED, MOST_LOOKED_THROUGH, Page, counts, moment_of, page, strands

__all__ = [
    "MOST_LISTED",
    "MOST_LOOKED_THROUGH",
    "QUALIFIERS",
    "WORD",
    "Condition",
    "Page",
    "Search",
    "among_arguments",
    "asked_for",
    "counts",
    "moment_of",
    "page",
    "parse",
    "replaced",
    "strands",
    "without_arguments",
]
