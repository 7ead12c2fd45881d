"""What `@task` and `using()` take, and what they refuse. Refused is refused before the database is asked."""

from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.auth.models import AnonymousUser, User

from django_jobs import Retry, task
from django_jobs.options import Options
from tests import tasks


@pytest.mark.parametrize("way", [lambda **options: tasks.add.using(**options), task, Options])
@pytest.mark.parametrize(
    ("option", "error", "problem"),
    [
        ({"delay": -1}, ValueError, "delay=-1: from 0 seconds"),
        ({"delay": timedelta(seconds=-1)}, ValueError, "delay=.*: from 0 seconds"),
        ({"delay": float("inf")}, ValueError, "delay=inf: from 0 seconds"),
        ({"delay": float("nan")}, ValueError, "delay=nan: from 0 seconds"),
        ({"delay": "5"}, TypeError, "delay='5' is of type str; give seconds or a timedelta"),
        ({"delay": True}, TypeError, "delay=True is of type bool"),
        ({"delay": 1, "at": datetime(2030, 1, 1, tzinfo=UTC)}, ValueError, "both say when; give one"),
        ({"at": datetime(2030, 1, 1)}, ValueError, r"has no time zone, .*make_aware"),  # noqa: DTZ001
        ({"at": "2030-01-01"}, TypeError, "at='2030-01-01' is of type str; give a datetime"),
        ({"at": datetime.max.replace(tzinfo=UTC)}, ValueError, "beyond what databases store"),
        ({"timeout": 0}, ValueError, "timeout=0: from 1 second .*-1 for no limit"),
        ({"timeout": -2}, ValueError, "timeout=-2: from 1 second"),
        ({"timeout": float("inf")}, ValueError, "timeout=inf: from 1 second"),
        ({"timeout": "5m"}, TypeError, "timeout='5m' is of type str"),
        ({"retry": 3}, TypeError, r"retry=3 is of type int; give .*Retry\(max="),
        ({"idempotent": "yes"}, TypeError, "idempotent='yes' is of type str; give True or False"),
        ({"queue": None}, TypeError, "queue=None is of type NoneType; give the name of a queue"),
        ({"subject": 42}, TypeError, "subject=42 is of type int; give text"),
        ({"subject": "x" * 256}, ValueError, "subject= has at most 255 characters"),
        ({"subject": "a\0"}, ValueError, "none of them NUL"),
        ({"tags": "import"}, TypeError, "tags='import' is of type str; give a list"),
        ({"tags": [1]}, TypeError, "tags= holds 1; a tag is a word"),
        ({"tags": ["a\0"]}, TypeError, "tags= contains"),
        ({"meta": [1]}, TypeError, r"meta=\[1\] is of type list; give a dict"),
        ({"meta": {"a": {1}}}, TypeError, r"meta= contains at \['a'\] a value of type set"),
        ({"meta": {1: 2}}, TypeError, "meta= is a dict with the key 1"),
        ({"tags": [""]}, TypeError, "tags= holds ''; a tag is a word"),
        ({"at_front": 1}, TypeError, "at_front=1 is of type int; give True or False"),
        ({"unique": 42}, TypeError, "unique=42 is of type int; give text"),
        ({"unique": ""}, ValueError, 'unique="" is no key; give one such as "file:42", or None'),
        ({"unique": "x" * 256}, ValueError, "unique= has at most 255 characters"),
        ({"unique": "\ud800"}, ValueError, "unique= has at most 255 characters"),
        ({"description": None}, TypeError, "description=None is of type NoneType; give text"),
        ({"description": "x" * 256}, ValueError, "description= has at most 255 characters"),
        ({"keep_result_for": -1}, ValueError, "keep_result_for=-1: from 0 seconds"),
        ({"keep_result_for": float("nan")}, ValueError, "keep_result_for=nan: from 0 seconds"),
        ({"keep_result_for": timedelta(days=99_999)}, ValueError, "keep_result_for=.*: from 0 seconds"),
        ({"keep_result_for": "1h"}, TypeError, "keep_result_for='1h' is of type str; give seconds"),
        ({"database": "othr"}, ValueError, 'Unknown database "othr"; did you mean "other"\\?'),
        ({"database": "x"}, ValueError, 'Unknown database "x"; known are: default, other, third'),
        ({"database": 1}, TypeError, "database=1 is of type int; give the alias of a database"),
        ({"owner": AnonymousUser()}, TypeError, "owner=.* is no saved user"),
        ({"owner": User(username="ada")}, TypeError, "owner=.* is no saved user"),
    ],
)
def test_an_option_that_cannot_be_meant_is_refused(way, option, error, problem):
    with pytest.raises(error, match=problem):
        way(**option)


@pytest.mark.parametrize("way", [lambda **options: tasks.add.using(**options), task])
def test_an_unknown_option_is_refused_with_the_one_that_was_meant(way):
    with pytest.raises(TypeError, match=r'Unknown option "timeuot"; did you mean "timeout"\?'):
        way(timeuot=1)


@pytest.mark.parametrize(
    ("limits", "error", "problem"),
    [
        ({"cpu_seconds": "60"}, TypeError, "cpu_seconds='60' is of type str; give a number"),
        ({"cpu_seconds": timedelta(seconds=60)}, TypeError, "cpu_seconds=.* is of type timedelta"),
        ({"cpu_seconds": True}, TypeError, "cpu_seconds=True is of type bool"),
        ({"cpu_seconds": 0}, ValueError, "cpu_seconds=0: from 0.1 to 31,536,000, or None for its queue's"),
        ({"cpu_seconds": float("nan")}, ValueError, "cpu_seconds=nan: from 0.1 to"),
        ({"memory_mb": 9}, ValueError, "memory_mb=9: from 10 to 1,048,576"),
        ({"memory_mb": -1}, ValueError, "memory_mb=-1: from 10 to 1,048,576"),
        ({"memory": 500}, TypeError, 'Unknown option "memory"; did you mean "memory_mb"'),
    ],
)
def test_a_limit_that_cannot_be_meant_is_refused(limits, error, problem):
    with pytest.raises(error, match=problem):
        task(**limits)


def test_a_limit_is_none_of_a_call():
    with pytest.raises(TypeError, match=r'memory_mb is a limit of the task, not of a call: .*"QUEUE_LIMITS"'):
        tasks.add.using(memory_mb=500)


def test_an_unknown_option_like_no_other_is_refused_with_all_there_are():
    with pytest.raises(TypeError, match='Unknown option "x"; known are: queue, engine, retry, timeout,'):
        tasks.add.using(x=1)


@pytest.mark.parametrize(
    "options",
    [
        {"delay": 0},
        {"delay": 0.5},
        {"delay": timedelta(days=365)},
        {"at": datetime(2000, 1, 1, tzinfo=UTC)},
        {"timeout": -1},
        {"timeout": 1},
        {"timeout": timedelta(hours=1)},
        {"retry": Retry(max=0)},
        {"tags": {"a", "b"}},
        {"subject": "x" * 255},
        {"unique": "x" * 255, "description": "x" * 255},
        {"unique": None},
        {"at_front": True},
        {"keep_result_for": 0},
        {"keep_result_for": timedelta(milliseconds=1)},
        {"database": "other"},
        {"meta": {"a": [None, {"b": 1.5}]}},
    ],
)
def test_everything_else_is_taken(options):
    tasks.add.using(**options)


def test_a_task_looks_like_its_function():
    assert (tasks.add.__name__, tasks.add.__module__) == ("add", "tests.tasks")
    assert repr(tasks.add) == "<Task tests.tasks.add>"


def test_a_task_without_parentheses_has_the_default_options(forget_declared):
    assert task(tasks.undeclared).options == Options()


def test_options_given_one_after_the_other_are_checked_together():
    with pytest.raises(ValueError, match="both say when"):
        tasks.add.using(delay=1).using(at=datetime(2030, 1, 1, tzinfo=UTC))


def test_a_task_is_declared_with_options_and_used_with_others(forget_declared):
    declared = task(queue="vectorization", tags=["a"])(tasks.undeclared)

    used = declared.using(tags=["b"], at_front=True)

    assert (declared.options.queue, declared.options.tags, declared.options.at_front) == (
        "vectorization",
        ["a"],
        False,
    )
    assert (used.options.queue, used.options.tags, used.options.at_front) == ("vectorization", ["b"], True)
    assert (used.name, used.function) == (declared.name, declared.function)
