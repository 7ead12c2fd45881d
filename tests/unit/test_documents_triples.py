import pytest

from testproject.documents.triples import Fact, facts_in


@pytest.mark.parametrize(
    ("sentence", "fact"),
    [
        ("Pygments is a syntax highlighter.", ("Pygments", "is a", "syntax highlighter")),
        ("pip is the package installer for Python!", ("pip", "is the", "package installer for Python")),
        ("The library provides two wrappers", ("library", "provides", "two wrappers")),
        ("Rich can render pretty tables.", ("Rich", "can render", "pretty tables")),
        ("Rich requires Python 3.8 or later.", ("Rich", "requires", "Python 3.8 or later")),
        ("Joblib also supports Python 3.10.", ("Joblib", "supports", "Python 3.10")),
        ("Valkey is licensed under the BSD License.", ("Valkey", "is licensed under", "BSD License")),
        ("Django's development depends on donations.", ("Django's development", "depends on", "donations")),
        ("Django-RQ relies on RQ", ("Django-RQ", "relies on", "RQ")),
        ("Built-in columns include the file size.", ("Built-in columns", "include", "file size")),
        ('The "click" package (8.0) wraps optparse.', ("click package", "wraps", "optparse")),
        ("NumPy is a library, not a framework.", ("NumPy", "is a", "library")),
        ("Django is a framework that encourages speed.", ("Django", "is a", "framework")),
        ("- RQ uses Redis; workers poll it.", ("RQ", "uses", "Redis")),
    ],
)
def test_a_simple_sentence_gives_a_fact(sentence, fact):
    assert facts_in(sentence) == [Fact(*fact)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Installation",
        "Installing",
        "Run the following command:",
        "It provides two wrappers.",
        "This is a Python port of something.",
        "If Redis is a problem, use Valkey.",
        "You need a server.",
        "Automatic help page generation",
        "Install and run Valkey directly.",
        "There is a way.",
        "NumPy has made a commitment.",
        "Redis requires it.",
        "The command is the following:",
        "    RQ requires Redis.",
        "RQ requires Redis | Celery requires a broker",
        "1 is a 2",
        "пакет is a 包",
    ],
)
def test_anything_else_gives_none(text):
    assert facts_in(text) == []


def test_an_enumeration_gives_a_fact_for_each_member():
    facts = facts_in("Rich works with Linux, macOS, and Windows.")

    assert [fact.object for fact in facts] == ["Linux", "macOS", "Windows"]


def test_it_is_the_subject_of_the_fact_before():
    facts = facts_in("Django is a framework. It supports PostgreSQL.\n\nIt requires Python.")

    assert facts == [
        Fact("Django", "is a", "framework"),
        Fact("Django", "supports", "PostgreSQL"),
        Fact("Django", "requires", "Python"),
    ]


def test_a_repeated_fact_is_given_once():
    assert facts_in("RQ uses Redis. RQ uses Redis.") == [Fact("RQ", "uses", "Redis")]


def test_facts_fit_their_columns():
    assert facts_in(f"RQ uses {'x' * 300}.") == []
    assert facts_in(f"{'x' * 300} uses Redis.") == []
