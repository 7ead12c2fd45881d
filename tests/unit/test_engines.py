"""Engines without their servers: ids, queues, addresses."""

from uuid import UUID

import pytest
import redis
from redis.sentinel import Sentinel

from django_jobs.engines import get_engine
from django_jobs.engines.base import Delivery, parse_delivery_id
from django_jobs.engines.rq.connections import impatient_client, masked_url
from django_jobs.engines.rq.examining import what_lacks
from django_jobs.environment import default_rq_queues
from django_jobs.exceptions import UnknownEngine, UnknownQueue
from django_jobs.models import Job

JOB_ID = UUID("0190c0de-0000-7000-8000-00000000002a")


def test_a_deliverys_id_tells_job_attempt_and_delivery():
    delivery = Delivery.of(Job(id=JOB_ID, attempt=2, delivery=3, queue="mail", task="app.tasks.send"))

    assert delivery.id == "0190c0de00007000800000000000002a-2-3"
    assert parse_delivery_id(delivery.id) == (JOB_ID, 2)


def test_a_delivery_carries_no_arguments():
    job = Job(id=JOB_ID, queue="mail", task="app.tasks.send", args=["secret"], kwargs={"a": "secret"})

    assert "secret" not in repr(Delivery.of(job))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0190c0de00007000800000000000002a",
        "0190c0de00007000800000000000002a-1",
        "0190c0de00007000800000000000002a-1-0-0",
        "0190c0de00007000800000000000002a--1-0",
        "0190c0de00007000800000000000002a-1-0\n",
        "0190C0DE00007000800000000000002A-1-0",
        "0190c0de-0000-7000-8000-00000000002a-1-0",
        "0190c0de00007000800000000000002a-1-9999999999",
        "x" * 32 + "-1-0",
        "\u0661" * 32 + "-1-0",
        "0190c0de00007000800000000000002a-\u0661-0",
        "b1946ac9-2b1e-4ee1-8a6e-52d3b1f5b1a0",
    ],
)
def test_anything_else_is_no_deliverys_id(text):
    assert parse_delivery_id(text) is None


def test_an_engine_is_known_by_its_name():
    assert get_engine("rq") is get_engine("rq")
    with pytest.raises(UnknownEngine, match='Unknown engine "celerz"; known are: rq'):
        get_engine("celerz")


def test_a_declared_queue_is_known_and_another_is_not(settings):
    settings.RQ_QUEUES = {"mail": {"URL": "redis://one"}, "video": {"URL": "redis://one"}}

    get_engine("rq").check_queue("mail")
    with pytest.raises(UnknownQueue, match=r'Unknown queue "mial"\. Did you mean "mail"\?') as refused:
        get_engine("rq").check_queue("mial")

    assert "Declared are: mail, video." in str(refused.value)
    assert "Declare it in RQ_QUEUES." in str(refused.value)


def test_an_unknown_queue_is_to_be_declared_where_the_project_declares_the_others(settings):
    settings.RQ_QUEUES = default_rq_queues()

    with pytest.raises(UnknownQueue, match=r'Declare it in DJANGO_JOBS\["QUEUES"\]\.$'):
        get_engine("rq").check_queue("mial")


def test_queues_are_grouped_by_their_server(settings):
    settings.RQ_QUEUES = {
        "mail": {"URL": "redis://:secret@one:6379/0"},
        "video": {"HOST": "one", "PORT": 6379, "DB": 0, "PASSWORD": "secret"},
        "audio": {"URL": "redis://one:6379/1"},
    }

    assert get_engine("rq").servers() == {
        "redis://:***@one:6379/0": ["mail", "video"],
        "redis://one:6379/1": ["audio"],
    }


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ({}, 180),
        ({"DEFAULT_TIMEOUT": 60}, 60),
        ({"DEFAULT_TIMEOUT": "5m"}, 300),
        ({"DEFAULT_TIMEOUT": -1}, None),
    ],
)
def test_a_queue_has_its_time_limit_or_rqs(settings, given, seconds):
    settings.RQ_QUEUES = {"mail": {"URL": "redis://one", **given}}

    assert get_engine("rq").default_timeout_seconds("mail") == seconds


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://localhost", "redis://localhost:6379/0"),
        ("redis://host:7000/3", "redis://host:7000/3"),
        ("redis://:secret@host/0", "redis://:***@host:6379/0"),
        ("redis://ada:secret@host/0", "redis://ada:***@host:6379/0"),
        ("rediss://ada:secret@host:6380/1", "rediss://ada:***@host:6380/1"),
        ("unix:///run/valkey.sock", "unix:///run/valkey.sock?db=0"),
        ("unix://ada:secret@/run/valkey.sock?db=2", "unix://ada:***@/run/valkey.sock?db=2"),
    ],
)
def test_an_address_is_told_without_its_password(settings, url, masked):
    settings.RQ_QUEUES = {"mail": {"URL": url}}

    assert masked_url(impatient_client("mail")) == masked


def test_a_sentinels_service_is_told_without_the_password():
    client = Sentinel([("one", 26379)]).master_for("mymaster", password="secret", db=2)

    assert masked_url(client) == "sentinel://:***@mymaster/2"


def test_a_client_of_a_request_tries_once_and_for_a_second(settings):
    settings.RQ_QUEUES = {"mail": {"URL": "redis://one"}}

    told = impatient_client("mail").connection_pool.connection_kwargs

    assert (told["socket_timeout"], told["socket_connect_timeout"]) == (1, 1)
    assert told["retry"].get_retries() == 0


def test_users_of_one_server_have_a_client_each(settings):
    server = {"HOST": "one", "PORT": 6379, "DB": 0}
    settings.RQ_QUEUES = {
        "mail": {**server, "USERNAME": "ada", "PASSWORD": "x"},
        "video": {**server, "USERNAME": "bob", "PASSWORD": "x"},
    }

    assert impatient_client("mail") is not impatient_client("video")
    assert isinstance(impatient_client("mail"), redis.Redis)


@pytest.mark.parametrize("version", ["6.2.0", "6.2", "7.2.4", "10.0", "", "unknown"])
def test_a_server_that_is_new_enough_lacks_nothing(version):
    assert what_lacks(version) == ""


@pytest.mark.parametrize("version", ["6.0.20", "5.0.14", "2.8"])
def test_a_server_that_is_too_old_lacks_a_command(version):
    assert what_lacks(version) == "BLMOVE, which Redis has since 6.2"
