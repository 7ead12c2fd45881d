"""System checks. None asks a database or a server."""

from types import SimpleNamespace

import pytest
from django.core.management import call_command
from django.db import connections

from django_jobs import checks
from django_jobs.conf import settings as jobs_settings
from django_jobs.environment import default_rq_queues


def told(check):
    return [(message.id.removeprefix("django_jobs."), message.msg, message.hint) for message in check()]


@pytest.mark.django_db(databases="__all__")  # Django asks a database for its version first.
def test_the_test_project_is_all_right():
    call_command("check")


@pytest.mark.parametrize("key", ["ALOWED_TASKS", "allowed_tasks", "AllowedTasks"])
def test_an_unknown_setting_is_told_with_the_one_that_was_meant(settings, key):
    settings.DJANGO_JOBS = {key: []}

    assert told(checks.check_settings) == [
        ("E004", f"DJANGO_JOBS has the unknown key {key!r}.", 'Did you mean "ALLOWED_TASKS"?')
    ]


@pytest.mark.parametrize("key", ["colour", 42])
def test_an_unknown_setting_like_no_other_is_told_with_all_there_are(settings, key):
    settings.DJANGO_JOBS = {key: "blue"}

    [(code, _, hint)] = told(checks.check_settings)

    assert (code, hint) == ("E004", f"Known are: {', '.join(jobs_settings.declared())}.")


@pytest.mark.parametrize("given", [None, [], "x", 5])
def test_settings_that_are_no_dictionary_are_told(settings, given):
    settings.DJANGO_JOBS = given

    [(code, message, _)] = told(checks.check_settings)

    assert (code, message) == ("E005", f"DJANGO_JOBS is {given!r}; allowed is a dict of settings.")
    assert [code for code, *_ in told(checks.check_queues)] == []


def test_a_setting_of_no_use_is_told_with_what_is_allowed_and_the_default(settings):
    settings.DJANGO_JOBS = {"LEASE_SECONDS": -1}

    assert told(checks.check_settings) == [
        (
            "E006",
            'DJANGO_JOBS["LEASE_SECONDS"] is -1; allowed is a number of seconds from 1 to 86400.',
            "Leave it out for the default, 15.",
        )
    ]


def test_every_setting_of_no_use_is_told(settings):
    settings.DJANGO_JOBS = dict.fromkeys(jobs_settings.declared(), object())

    messages = told(checks.check_settings)

    assert {code for code, *_ in messages} == {"E006"}
    for key, (_, message, _) in zip(jobs_settings.declared(), messages, strict=True):
        assert message.startswith(f'DJANGO_JOBS["{key}"] is <object object')


def test_settings_of_use_are_not_told(settings):
    settings.DJANGO_JOBS = {key: each.default for key, each in jobs_settings.declared().items()}

    assert told(checks.check_settings) == []


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("shop.jobs.visible", "cannot be imported"),
        ("tests.tasks.nothing", "cannot be imported"),
        ("tests.conftest.ROOT", "allowed is a function of a user and a queryset of jobs"),
    ],
)
def test_a_function_for_visible_jobs_that_is_none_is_told(settings, path, problem):
    settings.DJANGO_JOBS = {"VISIBLE_JOBS": path}

    [(code, message, hint)] = told(checks.check_visible_jobs)

    assert code == "E008"
    assert message.startswith(f'DJANGO_JOBS["VISIBLE_JOBS"] is "{path}", which ')
    assert problem in message
    assert "def visible_jobs(user, jobs)" in hint


@pytest.mark.parametrize("given", [{}, {"VISIBLE_JOBS": "tests.tasks.add"}, {"VISIBLE_JOBS": 5}, None])
def test_other_settings_of_visible_jobs_are_not_told_there(settings, given):
    settings.DJANGO_JOBS = given

    assert told(checks.check_visible_jobs) == []


@pytest.mark.parametrize("queues", [{}, None])
def test_a_project_without_queues_is_warned(settings, queues):
    settings.RQ_QUEUES = queues

    assert [code for code, *_ in told(checks.check_queues)] == ["W001"]


def test_a_project_that_names_its_queues_twice_is_warned(settings):
    settings.RQ_QUEUES = {"default": {"URL": "redis://localhost"}}
    settings.DJANGO_JOBS = {"QUEUES": ["default", "mail"]}

    assert told(checks.check_queues) == [
        (
            "W002",
            'DJANGO_JOBS["QUEUES"] is ignored: the project declares RQ_QUEUES.',
            "Name the queues in one of the two, and remove the other.",
        )
    ]


def test_a_project_that_names_its_queues_once_is_not_warned(settings):
    settings.DJANGO_JOBS = {"QUEUES": ["default", "mail"]}
    settings.RQ_QUEUES = default_rq_queues()

    assert told(checks.check_queues) == []


def test_a_limit_of_a_queue_that_does_not_exist_is_told(settings):
    settings.RQ_QUEUES = {"kg_extraction": {"URL": "redis://localhost"}}
    settings.DJANGO_JOBS = {"QUEUE_LIMITS": {"kg_extractoin": {"memory_mb": 500}, "kg_extraction": {}}}

    assert told(checks.check_queues) == [
        (
            "W004",
            'DJANGO_JOBS["QUEUE_LIMITS"] names the queue "kg_extractoin", which does not exist.',
            'Name one that exists: did you mean "kg_extraction"?',
        )
    ]


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
    monkeypatch.setattr(checks, "connections", {"default": SimpleNamespace(vendor="mysql", settings_dict={})})

    [(code, message, _)] = told(checks.check_database)

    assert code == "E002"
    assert message == "The jobs' database is mysql; django_jobs supports PostgreSQL and SQLite."


@pytest.mark.parametrize(
    ("vendor", "options", "codes"),
    [
        ("sqlite", {}, ["W003"]),
        ("sqlite", {"transaction_mode": "DEFERRED"}, ["W003"]),
        ("sqlite", {"transaction_mode": None}, ["W003"]),
        ("sqlite", {"transaction_mode": "IMMEDIATE"}, []),
        ("sqlite", {"transaction_mode": "exclusive"}, []),
        ("postgresql", {}, []),
    ],
)
def test_sqlite_whose_transactions_cannot_wait_for_each_other_is_told(monkeypatch, vendor, options, codes):
    connection = SimpleNamespace(vendor=vendor, settings_dict={"OPTIONS": options})
    monkeypatch.setattr(checks, "connections", {"default": connection})

    assert [code for code, *_ in told(checks.check_database)] == codes


def test_local_times_are_told(settings):
    settings.USE_TZ = False

    assert [code for code, *_ in told(checks.check_database)] == ["E003"]
    assert connections["default"].vendor in {"postgresql", "sqlite"}
