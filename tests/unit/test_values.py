import json
import sys
from decimal import Decimal
from enum import IntEnum
from traceback import walk_tb

import pytest
from django.utils.safestring import mark_safe

from django_jobs.values import (
    MOST_FRAMES,
    clean_text,
    error_fields,
    error_message,
    is_storable,
    json_error,
    kept,
    kept_begin,
    short,
)


class Level(IntEnum):
    HIGH = 1


class Subclassed(dict):
    pass


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -1, 2**60, 10**3000, 1.5, -0.0, "", "é😀\u2028", [], [[1], {"a": []}], {"": {"b": None}}],
)
def test_json_is_let_through_and_comes_back_unchanged(value):
    assert json_error(value) is None
    assert json.loads(json.dumps(value)) == value


def test_tuples_are_let_through_and_come_back_as_lists():
    assert json_error((1, (2,))) is None


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({1}, "is a value of type set, which is not JSON"),
        (b"x", "is a value of type bytes, which is not JSON"),
        (Decimal(1), "is a value of type Decimal, which is not JSON"),
        (Level.HIGH, "is a value of type Level, which is not JSON"),
        (mark_safe("x"), "is a value of type SafeString, which is not JSON"),
        (Subclassed(), "is a value of type Subclassed, which is not JSON"),
        (float("nan"), "is nan, which is not JSON"),
        (float("-inf"), "is -inf, which is not JSON"),
        ({"a": {"b": [0, {1}]}}, "contains at ['a']['b'][1] a value of type set, which is not JSON"),
        ({1: 2}, "is a dict with the key 1; JSON has only text as keys"),
        ({"a": {None: 2}}, "contains at ['a'] a dict with the key None; JSON has only text as keys"),
        ([Level.HIGH], "contains at [0] a value of type Level, which is not JSON"),
    ],
)
def test_what_would_not_come_back_is_told_with_its_place(value, problem):
    assert json_error(value) == problem


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "\udfff\ud800"])
def test_text_that_postgresql_refuses_is_refused_as_value_and_as_key(text):
    assert "PostgreSQL refuses" in json_error(text)
    assert "PostgreSQL refuses" in json_error(["x", text])
    assert "dict with the key" in json_error({text: 1})


def test_a_number_that_python_does_not_write_is_refused():
    assert json_error(10**5000) == "is a number of more than 4,000 digits, which is not JSON"


def test_what_is_nested_too_deeply_is_refused_and_not_an_error_of_python():
    value = []
    for _ in range(sys.getrecursionlimit() * 3):
        value = [value]

    assert "nested too deeply for JSON" in json_error(value)


def test_what_contains_itself_is_refused():
    value = {}
    value["self"] = value

    assert "nested too deeply for JSON" in json_error(value)


@pytest.mark.parametrize(
    ("text", "storable"), [("é\n", True), ("\0", False), ("\ud83d", False), ("😀", True)]
)
def test_text_is_storable_without_nul_and_half_surrogates(text, storable):
    assert is_storable(text) is storable


@pytest.mark.parametrize("text", ["", "abc", "é😀\n\t"])
def test_clean_text_stays_as_it_is(text):
    assert clean_text(text, 100) == text


def test_what_is_not_storable_is_replaced():
    cleaned = clean_text("a\0b\ud800c", 100)

    assert is_storable(cleaned)
    assert (cleaned[0], cleaned[2], cleaned[-1]) == ("a", "b", "c")


def test_long_text_keeps_its_head_and_its_longer_tail():
    cleaned = clean_text("h" * 500 + "t" * 500, 100)

    assert cleaned == "h" * 25 + "\n… 900 characters cut …\n" + "t" * 75


def test_short_text_ends_in_an_ellipsis_when_cut():
    assert short("abcdef", 6) == "abcdef"
    assert short("abcdefg", 6) == "abcde…"
    assert is_storable(short("\0" * 10, 5))


SECRET = "postgres://ada:correct-horse-battery@db"


@pytest.mark.parametrize("place", range(0, 60, 7))
def test_no_half_of_a_secret_is_left_where_a_text_is_cut(place):
    for text in (f"{'x' * place}{SECRET} {'y' * 99_000}", f"{'y' * 99_000} {SECRET}{'x' * place}"):
        assert "corr" not in kept(text, 80) + kept_begin(text, 80) + error_message(text)
        assert "tery" not in kept(text, 80)
        assert len(kept(text, 80)) < 150
        assert len(kept_begin(text, 80)) == 80


def test_a_text_that_is_kept_whole_is_masked_only_if_asked_to(settings):
    assert (kept(SECRET, 80), kept_begin(SECRET, 80)) == (SECRET, SECRET)

    settings.DJANGO_JOBS = {"REDACT_AT_WRITE": True}

    assert (kept(SECRET, 80), kept_begin(SECRET, 80)) == ("postgres://ada:********@db",) * 2


def test_an_error_message_is_always_masked():
    assert error_message(SECRET) == "postgres://ada:********@db"
    assert error_message("x" * 3_000) == f"{'x' * 1_999}…"


def test_the_middle_of_an_endless_traceback_is_cut_before_it_is_formatted():
    def go_down(depth):
        if depth == 0:
            raise ValueError("at the bottom")
        (go_on_down if depth % 2 else go_down)(depth - 1)

    def go_on_down(depth):
        go_down(depth)

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)
    try:
        go_down(20_000)
    except ValueError as cause:
        error = LookupError("because of that")
        error.__cause__ = cause
    finally:
        sys.setrecursionlimit(limit)
    frames = len(list(walk_tb(error.__cause__.__traceback__)))

    told = error_fields(error)["traceback"]

    assert len(list(walk_tb(error.__cause__.__traceback__))) == MOST_FRAMES
    assert f"ValueError: at the bottom\n({frames - MOST_FRAMES:,} frames of its traceback cut)\n" in told
    assert told.endswith("LookupError: because of that\n")
