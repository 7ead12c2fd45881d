"""The settings: what each takes, that it is read when it is used, and that people are told of it."""

import math
import re
from datetime import timedelta
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from django_jobs.conf import REDACT_KEYS, REDACT_PATTERNS, Settings
from django_jobs.conf import settings as jobs_settings
from tests.conftest import ROOT

DOCUMENTED = (ROOT / "docs/settings.md").read_text()


def test_settings_have_defaults(settings):
    del settings.DJANGO_JOBS

    assert {key: getattr(jobs_settings, key) for key in jobs_settings.declared()} == {
        "QUEUES": ["default"],
        "ALLOWED_TASKS": [],
        "LEASE_SECONDS": 15,
        "QUEUE_LIMITS": {},
        "MAX_ARGUMENTS_BYTES": 1_000_000,
        "MAX_RESULT_BYTES": 10_000_000,
        "RETENTION_DAYS": 7,
        "FAILED_RETENTION_DAYS": 90,
        "QUEUE_RETENTION_DAYS": {},
        "TASK_RETENTION_DAYS": {},
        "IMMEDIATE": False,
        "PLAIN_JOBS": "run",
        "LOG_FILE": None,
        "SPOOL_DIRECTORY": None,
        "REDACT_KEYS": REDACT_KEYS,
        "REDACT_PATTERNS": REDACT_PATTERNS,
        "REDACT_AT_WRITE": False,
        "READ_ONLY": False,
        "VISIBLE_JOBS": None,
    }


def test_settings_are_read_when_they_are_used(settings):
    settings.DJANGO_JOBS = {"LEASE_SECONDS": 3}

    assert jobs_settings.lease == timedelta(seconds=3)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("QUEUES", ["default", "mail"]),
        ("QUEUES", ("mail",)),
        ("QUEUES", {"default": {}, "video": {"DEFAULT_TIMEOUT": 3600, "ASYNC": False}}),
        ("QUEUES", ["x" * 100]),
        ("ALLOWED_TASKS", ("a.b",)),
        ("ALLOWED_TASKS", {"a.b"}),
        ("LEASE_SECONDS", 1),
        ("LEASE_SECONDS", 2.5),
        ("LEASE_SECONDS", 86_400),
        ("QUEUE_LIMITS", {"mail": {"cpu_seconds": 0.1}, "video": {"cpu_seconds": 60, "memory_mb": 500}}),
        ("QUEUE_LIMITS", {"mail": {}}),
        ("MAX_ARGUMENTS_BYTES", 1),
        ("MAX_RESULT_BYTES", 250_000_000),
        ("RETENTION_DAYS", None),
        ("RETENTION_DAYS", 0.01),
        ("RETENTION_DAYS", 36_500),
        ("FAILED_RETENTION_DAYS", None),
        ("QUEUE_RETENTION_DAYS", {"mail": 0.5, "billing": None}),
        ("TASK_RETENTION_DAYS", {"shop.tasks.bill": 3650}),
        ("IMMEDIATE", True),
        ("PLAIN_JOBS", "refuse"),
        ("LOG_FILE", "worker.log"),
        ("SPOOL_DIRECTORY", Path("/var/lib/spool")),
        ("LOG_FILE", Path("/var/log/worker.log")),
        ("REDACT_KEYS", []),
        ("REDACT_KEYS", (r"iban", r"(?<!public_)key$")),
        ("REDACT_PATTERNS", [r"sk-\w+"]),
        ("REDACT_AT_WRITE", True),
        ("READ_ONLY", True),
        ("VISIBLE_JOBS", "shop.jobs.visible_jobs"),
    ],
)
def test_a_setting_takes_what_is_allowed(settings, key, value):
    settings.DJANGO_JOBS = {key: value}

    assert getattr(jobs_settings, key) == value


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("QUEUES", []),
        ("QUEUES", {}),
        ("QUEUES", "default"),
        ("QUEUES", None),
        ("QUEUES", {"default", "mail"}),
        ("QUEUES", ["default", ""]),
        ("QUEUES", ["default", 1]),
        ("QUEUES", ["x" * 101]),
        ("QUEUES", {1: {}}),
        ("QUEUES", {"default": None}),
        ("QUEUES", {"default": {"DEFAULT_TIMOUT": 60}}),
        ("QUEUES", {"default": {"URL": "redis://elsewhere"}}),
        ("ALLOWED_TASKS", "app.tasks"),
        ("ALLOWED_TASKS", [1]),
        ("ALLOWED_TASKS", [""]),
        ("ALLOWED_TASKS", None),
        ("LEASE_SECONDS", 0.5),
        ("LEASE_SECONDS", -1),
        ("LEASE_SECONDS", "15"),
        ("LEASE_SECONDS", None),
        ("LEASE_SECONDS", True),
        ("LEASE_SECONDS", math.nan),
        ("LEASE_SECONDS", math.inf),
        ("LEASE_SECONDS", 86_401),
        ("QUEUE_LIMITS", None),
        ("QUEUE_LIMITS", {"mail": 60}),
        ("QUEUE_LIMITS", {1: {"cpu_seconds": 60}}),
        ("QUEUE_LIMITS", {"mail": {"cpu": 60}}),
        ("QUEUE_LIMITS", {"mail": {"cpu_seconds": 0}}),
        ("QUEUE_LIMITS", {"mail": {"cpu_seconds": None}}),
        ("QUEUE_LIMITS", {"mail": {"cpu_seconds": math.inf}}),
        ("QUEUE_LIMITS", {"mail": {"cpu_seconds": True}}),
        ("QUEUE_LIMITS", {"mail": {"memory_mb": "500"}}),
        ("QUEUE_LIMITS", {"mail": {"memory_mb": 9}}),
        ("MAX_ARGUMENTS_BYTES", 0),
        ("MAX_ARGUMENTS_BYTES", 1e6),
        ("MAX_ARGUMENTS_BYTES", None),
        ("MAX_ARGUMENTS_BYTES", True),
        ("MAX_RESULT_BYTES", 250_000_001),
        ("RETENTION_DAYS", 0),
        ("RETENTION_DAYS", -7),
        ("RETENTION_DAYS", "7"),
        ("RETENTION_DAYS", math.nan),
        ("RETENTION_DAYS", False),
        ("RETENTION_DAYS", timedelta(days=7)),
        ("FAILED_RETENTION_DAYS", 36_501),
        ("READ_ONLY", 1),
        ("READ_ONLY", "yes"),
        ("VISIBLE_JOBS", "visible_jobs"),
        ("VISIBLE_JOBS", "shop.jobs."),
        ("VISIBLE_JOBS", print),
        ("QUEUE_RETENTION_DAYS", None),
        ("QUEUE_RETENTION_DAYS", {"mail": "1"}),
        ("TASK_RETENTION_DAYS", {"shop.tasks.bill": 0}),
        ("TASK_RETENTION_DAYS", {None: 1}),
        ("TASK_RETENTION_DAYS", [("shop.tasks.bill", 1)]),
        ("IMMEDIATE", "False"),
        ("IMMEDIATE", 1),
        ("IMMEDIATE", None),
        ("PLAIN_JOBS", "Run"),
        ("PLAIN_JOBS", None),
        ("PLAIN_JOBS", []),
        ("LOG_FILE", ""),
        ("SPOOL_DIRECTORY", 7),
        ("LOG_FILE", True),
        ("LOG_FILE", b"worker.log"),
        ("REDACT_KEYS", None),
        ("REDACT_KEYS", "password"),
        ("REDACT_KEYS", [1]),
        ("REDACT_KEYS", [""]),
        ("REDACT_PATTERNS", {"a": 1}),
        ("REDACT_AT_WRITE", "yes"),
    ],
)
def test_using_a_setting_of_no_use_raises_what_the_check_tells(settings, key, value):
    settings.DJANGO_JOBS = {key: value}
    problem = jobs_settings.declared()[key].problem(value)

    with pytest.raises(ImproperlyConfigured) as raised:
        getattr(jobs_settings, key)

    assert str(raised.value) == problem
    assert problem.startswith(f'DJANGO_JOBS["{key}"] is {value!r}; allowed is ')


@pytest.mark.parametrize("key", ["REDACT_KEYS", "REDACT_PATTERNS"])
@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("(pass", "missing ), unterminated subpattern at position 0"),
        ("*token", "nothing to repeat at position 0"),
        ("a{99999999999}", "the repetition number is too large"),
    ],
)
def test_what_is_no_regular_expression_is_told_with_the_reason(settings, key, expression, why):
    settings.DJANGO_JOBS = {key: ["fine", expression]}

    with pytest.raises(ImproperlyConfigured) as raised:
        getattr(jobs_settings, key)

    told = f'DJANGO_JOBS["{key}"] contains {expression!r}, which is no regular expression: {why}.'
    assert str(raised.value) == told == jobs_settings.declared()[key].problem(["fine", expression])


def test_a_wrong_setting_does_not_keep_the_others_from_use(settings):
    settings.DJANGO_JOBS = {"LEASE_SECONDS": -1, "IMMEDIATE": True}

    assert jobs_settings.IMMEDIATE is True


@pytest.mark.parametrize("given", [None, [], "x", 5])
def test_using_settings_that_are_no_dictionary_raises(settings, given):
    settings.DJANGO_JOBS = given

    with pytest.raises(ImproperlyConfigured) as raised:
        _ = jobs_settings.LEASE_SECONDS

    assert str(raised.value) == f"DJANGO_JOBS is {given!r}; allowed is a dict of settings."


@pytest.mark.parametrize(
    "options",
    [{"PASSWORD": "s3cret"}, {"URL": "redis://ada:s3cret@host/0"}, {"URL": "redis://:s3/s3cret@host"}],
)
def test_a_password_among_the_queues_options_is_not_told(options):
    problem = Settings.QUEUES.problem({"mail": options})

    assert problem.startswith("DJANGO_JOBS[\"QUEUES\"] is {'mail': {'")
    assert "s3cret" not in problem


def section_of(key):
    return re.search(rf"^### {key}\n(.*?)(?=^##|\Z)", DOCUMENTED, re.MULTILINE | re.DOTALL)[1]


@pytest.mark.parametrize("key", Settings.declared())
def test_every_setting_is_documented_with_its_default(key):
    rows = dict(re.findall(r"^\| \[`(\w+)`\]\(#\w+\) \|.*?\| ([^|]*) \|[^|]*\|$", DOCUMENTED, re.MULTILINE))
    default = Settings.declared()[key].default

    if rows[key] == f"[listed there](#{key.lower()})":
        assert "```\n{}\n```".format("\n".join(default)) in section_of(key)
    else:
        assert rows[key] == f"`{default!r}`"


@pytest.mark.parametrize("key", Settings.declared())
def test_every_setting_is_documented_with_an_example_that_is_allowed(settings, key):
    examples = re.findall(r"```python\nDJANGO_JOBS = (.*?)```", section_of(key), re.DOTALL)

    assert examples
    for example in examples:
        settings.DJANGO_JOBS = eval(example, {"BASE_DIR": ROOT})
        assert list(settings.DJANGO_JOBS) == [key]
        assert getattr(jobs_settings, key) == settings.DJANGO_JOBS[key]


def test_nothing_else_is_documented_as_a_setting():
    assert set(re.findall(r"^\| \[`(\w+)`\]", DOCUMENTED, re.MULTILINE)) == set(Settings.declared())
