"""The language of searches: what is understood, and what is told about the rest."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from django.utils import timezone
from hypothesis import example, given
from hypothesis import strategies as st

from django_jobs.exceptions import SearchError
from django_jobs.searching import (
    QUALIFIERS,
    WORD,
    Condition,
    Search,
    among_arguments,
    asked_for,
    parse,
    replaced,
)


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("status:failed", Condition("status", "failed")),
        ("subject:file:42", Condition("subject", "file:42")),
        ("-queue:mail", Condition("queue", "mail", negated=True)),
        ('error:"could not connect"', Condition("error", "could not connect", quoted=True)),
        (r'error:"a \"b\" \\ c"', Condition("error", r'a "b" \ c', quoted=True)),
        ("args.file_id:42", Condition("args.file_id", "42")),
        ('args.file_id:"42"', Condition("args.file_id", "42", quoted=True)),
        ("args.user.name:Ж", Condition("args.user.name", "Ж")),
        ("args.0:it's", Condition("args.0", "it's")),
        ("attempt:>=2", Condition("attempt", ">=2")),
        ("file:42", Condition(WORD, "file:42")),
        ("-process_file", Condition(WORD, "process_file", negated=True)),
        ('"status:failed"', Condition(WORD, "status:failed", quoted=True)),
        ('"-x"', Condition(WORD, "-x", quoted=True)),
        ("id:019A3C5E-77", Condition("id", "019A3C5E-77")),
        ("task:*.tasks.*", Condition("task", "*.tasks.*")),
        ('a"b', Condition(WORD, 'a"b')),
    ],
)
def test_a_search_is_understood(text, condition):
    assert parse(text) == Search((condition,))


def test_words_are_separated_by_any_space():
    search = parse('  status:failed\t-queue:mail\n"file 42"  ')

    assert [each.value for each in search.conditions] == ["failed", "mail", "file 42"]


def test_a_search_for_nothing_is_a_search_for_all():
    assert parse(" \n ") == Search()
    assert not parse("")
    assert parse("status:failed")
    assert parse("since:1h")


@pytest.mark.parametrize("example_of_one", QUALIFIERS.values())
def test_each_example_is_understood(example_of_one):
    assert parse(example_of_one)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("status:faild", 'Unknown status "faild"; did you mean "failed"?'),
        ("statu:failed", 'Unknown qualifier "statu"; did you mean "status"?'),
        (
            "workers:w1",
            'Unknown qualifier "workers"; did you mean "worker"? For a subject write subject:workers:w1',
        ),
        ("status:", "status: has no value; for example status:failed."),
        ('task:""', 'task:"" has no value; for example task:documents.tasks.*.'),
        ("args.x:", "args.x: has no value; for example args.file_id:42."),
        ('""', '"" has no value'),
        ('error:"could not', "is not closed"),
        ('error:"could"not', "is not closed, or text follows it at once"),
        ("status:failed -", '"-" has nothing to search for'),
        ("attempt:two", "attempt:two is no number; write attempt:2, attempt:>1 or attempt:<=3"),
        ("attempt:9999999999", "is no number"),
        ("id:019a", "first characters, 8 or more"),
        ("id:zzzzzzzzz", "is no id"),
        ("task:a*b", "in its middle"),
        ("task:**", "means every task; leave it out"),
        ("since:yesterday", "since:yesterday is no time; write since:90s"),
        ("since:999999w", "is no time"),
        ("until:2026-02-30", "is no time"),
        ("until:0001-01-01T00:00+14:00", "is no time"),
        ("-since:1h", "-since:1h cannot be; write until:1h"),
        ("args.99999999999:1", "positions up to 9999"),
        ("args.-1:1", "positions up to 9999"),
        ("args.a..b:1", "allowed are names and positions"),
        (f"args{'.a' * 11}:1", "has 11 levels; at most 10 are searched"),
        ("args.password:hunter2", "password is the name of a secret; it is masked"),
        ('-args.user.apiKey:"x"', "apiKey is the name of a secret"),
        ('args.config:{"password":"hunter2"}', "value of args.config holds a secret; it is masked"),
        ('-args.0:[{"user":{"apiKey":"x"}}]', "value of args.0 holds a secret"),
        ('args.url:"postgres://ada:hunter2@db"', "value of args.url holds a secret"),
        ("x\0", "NUL"),
        ("\ud800", "half a surrogate pair"),
        ("x" * 1001, "has 1,001 characters; at most 1,000 are allowed"),
        ("a " * 21, "has 21 conditions; at most 20 are allowed"),
    ],
)
def test_what_is_not_understood_is_told_with_what_is_allowed(text, told):
    with pytest.raises(SearchError, match=told.replace("?", r"\?").replace("*", r"\*")):
        parse(text)


@pytest.mark.parametrize(
    ("text", "ago"),
    [("90s", 90), ("15m", 900), ("2h", 7200), ("3d", 259_200), ("1w", 604_800)],
)
def test_a_time_may_be_so_long_ago(text, ago):
    before = timezone.now()

    since = parse(f"since:{text}").since

    assert before <= since + timedelta(seconds=ago) <= timezone.now()


def test_a_moment_without_a_zone_is_in_the_current_one():
    with timezone.override("Europe/Berlin"):
        search = parse("since:2026-11-26T10:00 until:2026-11-26T10:00Z")

    assert search.since == datetime(2026, 11, 26, 9, tzinfo=UTC)
    assert search.until == datetime(2026, 11, 26, 10, tzinfo=UTC)


def test_days_are_meant_from_begin_to_end():
    search = parse("since:2026-11-26 until:2026-11-26")

    assert search.until - search.since == timedelta(days=1)


def test_of_several_times_the_narrowest_counts():
    search = parse("since:2026-11-01 since:2026-11-20 until:2026-12-01 until:2026-11-25")

    assert (search.since.day, search.until.day) == (20, 26)


_PIECES = st.sampled_from(
    [
        *(f"{name}:" for name in QUALIFIERS),
        "args.a.0:",
        '"',
        "\\",
        "-",
        ":",
        "*",
        " ",
        "42",
        "1h",
        "1e999",
        "٣",
    ]
)


@given(st.one_of(st.text(), st.lists(st.one_of(_PIECES, st.text(max_size=5))).map("".join)))
@example("args.٣:1")
@example("args.1_0000000000:1")
@example("since:9999-12-31")
@example("until:9999-12-31")
@example("since:1w" * 100)
def test_whatever_is_typed_is_understood_or_refused(text):
    with suppress(SearchError):
        lower, upper = parse(text).span
        assert lower.int >= 0
        assert upper.int < 2**128


_TYPED = st.one_of(st.text(), st.lists(st.one_of(_PIECES, st.text(max_size=5))).map("".join))


@given(_TYPED)
@example('args.x:[1,"a"] "-x" -"a b" a"b')
def test_a_search_written_anew_means_the_same(text):
    with suppress(SearchError):
        meant = parse(text).conditions
        assert parse(replaced(text, {})).conditions == meant


@given(st.text(min_size=1).filter(lambda text: "\0" not in text and text.isprintable()), _TYPED)
def test_a_value_put_into_a_search_is_asked_for_as_it_is(value, text):
    with suppress(SearchError):
        anew = replaced(text, {"tag": value})
        assert asked_for(anew)["tag"] == value


def test_other_values_take_the_place_of_those_asked_for_and_leave_the_excluded_ones():
    assert replaced("queue:mail -queue:x y tag:a", {"queue": "files", "tag": ""}) == "-queue:x y queue:files"


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("42", "args.0:42"),
        ("file 42 status:failed -x", "status:failed -x args.0:42"),
        ("file_id:42", "args.file_id:42"),
        ('"file:a b"', 'args.file:"a b"'),
        ("http://x", "args.http://x"),
        ("1:2", "args.0:1:2"),
        ('status:failed args.file:"42"', 'status:failed args.0:"42"'),
        ("args.0:42", ""),
        ("-args.file:42", ""),
        ("status:failed -x", ""),
        ("", ""),
    ],
)
def test_a_bare_word_can_be_looked_for_in_the_arguments_instead(text, meant):
    assert among_arguments(text) == meant


@given(_TYPED)
def test_what_is_looked_for_in_the_arguments_is_understood(text):
    with suppress(SearchError):
        parse(text)
        parse(among_arguments(text))


@pytest.mark.parametrize("read", [asked_for, lambda text: replaced(text, {"queue": "mail"})])
def test_a_search_that_is_too_long_is_not_looked_at(read):
    with pytest.raises(SearchError, match="at most 1,000 are allowed"):
        read("statu:failed " * 100_000)
