"""System checks, and the settings they check. None asks a database or a server."""

from types import SimpleNamespace

import pytest
from django.core.management import call_command
from django.db import connections

from django_jobs import checks
from django_jobs.conf import settings as jobs_settings


def told(check):
    return [(message.id.removeprefix("django_jobs."), message.msg, message.hint) for message in check()]


@pytest.mark.django_db  # Django asks the database for its version before it judges the models.
def test_the_test_project_is_all_right():
    call_command("check")


def test_settings_have_defaults(settings):
    del settings.DJANGO_JOBS

    assert (jobs_settings.ALLOWED_TASKS, jobs_settings.LEASE_SECONDS) == ([], 15)


def test_settings_are_read_when_they_are_used(settings):
    settings.DJANGO_JOBS = {"LEASE_SECONDS": 3}

    assert jobs_settings.lease.total_seconds() == 3


def test_an_unknown_setting_is_told_with_the_one_that_was_meant(settings):
    settings.DJANGO_JOBS = {"ALOWED_TASKS": []}

    assert told(checks.check_settings) == [
        ("E004", "DJANGO_JOBS has the unknown key 'ALOWED_TASKS'.", 'Did you mean "ALLOWED_TASKS"?')
    ]


@pytest.mark.parametrize("key", ["colour", 42])
def test_an_unknown_setting_like_no_other_is_told_with_all_there_are(settings, key):
    settings.DJANGO_JOBS = {key: "blue"}

    [(code, _, hint)] = told(checks.check_settings)

    assert (code, hint) == ("E004", "Known are: ALLOWED_TASKS, LEASE_SECONDS.")


@pytest.mark.parametrize("given", [None, [], "x", 5])
def test_settings_that_are_no_dictionary_are_told_and_the_defaults_count(settings, given):
    settings.DJANGO_JOBS = given

    assert told(checks.check_settings) == [
        ("E005", f"DJANGO_JOBS is {given!r}.", "Give a dictionary of settings.")
    ]
    assert jobs_settings.LEASE_SECONDS == 15


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ALLOWED_TASKS", "app.tasks"),
        ("ALLOWED_TASKS", [1]),
        ("ALLOWED_TASKS", None),
        ("ALLOWED_TASKS", 5),
        ("LEASE_SECONDS", 0.5),
        ("LEASE_SECONDS", -1),
        ("LEASE_SECONDS", "15"),
        ("LEASE_SECONDS", None),
        ("LEASE_SECONDS", True),
        ("LEASE_SECONDS", float("nan")),
        ("LEASE_SECONDS", float("inf")),
    ],
)
def test_a_setting_of_no_use_is_told(settings, key, value):
    settings.DJANGO_JOBS = {key: value}

    [(code, message, _)] = told(checks.check_settings)

    assert (code, message) == ("E006", f"DJANGO_JOBS['{key}'] is {value!r}.")


@pytest.mark.parametrize(
    "given", [{"ALLOWED_TASKS": ("a.b",)}, {"LEASE_SECONDS": 1}, {"LEASE_SECONDS": 2.5}, {}]
)
def test_settings_of_use_are_taken(settings, given):
    settings.DJANGO_JOBS = given

    assert told(checks.check_settings) == []


@pytest.mark.parametrize("queues", [{}, None])
def test_a_project_without_queues_is_warned(settings, queues):
    settings.RQ_QUEUES = queues

    assert [code for code, *_ in told(checks.check_settings)] == ["W001"]


def test_a_queue_whose_url_is_none_is_told(settings):
    settings.RQ_QUEUES = {"good": {"URL": "redis://localhost"}, "bad": {"URL": "htp://nowhere"}}

    [(code, message, _)] = told(checks.check_queues)

    assert code == "E007"
    assert message.startswith('RQ_QUEUES["bad"] is of no use: ')


def test_django_rq_before_django_jobs_is_told(settings):
    apps = settings.INSTALLED_APPS
    settings.INSTALLED_APPS = ["django_rq", *(app for app in apps if app != "django_rq")]

    [(code, message, hint)] = told(checks.check_apps)

    assert (code, message) == ("E001", "django_rq stands before django_jobs in INSTALLED_APPS.")
    assert 'Put "django_jobs" before "django_rq"' in hint


def test_a_project_without_the_app_django_rq_is_all_right(settings):
    settings.INSTALLED_APPS = [app for app in settings.INSTALLED_APPS if app != "django_rq"]

    assert told(checks.check_apps) == []


def test_a_database_that_is_not_supported_is_told(monkeypatch):
    monkeypatch.setattr(checks, "connections", {"default": SimpleNamespace(vendor="mysql")})

    [(code, message, _)] = told(checks.check_database)

    assert code == "E002"
    assert message == "The jobs' database is mysql; django_jobs supports PostgreSQL and SQLite."


def test_local_times_are_told(settings):
    settings.USE_TZ = False

    assert [code for code, *_ in told(checks.check_database)] == ["E003"]
    assert connections["default"].vendor in {"postgresql", "sqlite"}
