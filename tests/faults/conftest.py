"""Servers that tests may break, and the way of workers and queues there."""

import pytest
from django.conf import settings
from django.db import connections

from tests.conftest import lines
from tests.faults.servers import ValkeyServer
from tests.postgres import Cluster


@pytest.fixture
def queues_on(valkey):
    """Move all queues of this process to the server under a URL."""
    declared = settings.RQ_QUEUES

    def move(url):
        settings.RQ_QUEUES = {name: {**queue, "URL": url} for name, queue in declared.items()}

    yield move
    settings.RQ_QUEUES = declared


@pytest.fixture
def redis_server(tmp_path, queues_on):
    """A Redis of the test's own, on which all queues are."""
    with ValkeyServer(tmp_path / "redis") as server:
        queues_on(server.url)
        yield server


@pytest.fixture
def held(tmp_path):
    """Jobs that run until they are let go: each with its files and what it has recorded."""

    class Held:
        def __init__(self, name):
            self.effects, self.release = tmp_path / f"{name}-effects", tmp_path / f"{name}-release"
            self.arguments = str(self.effects), str(self.release)

        def runs(self):
            return self.effects.exists()

        def let_go(self):
            self.release.touch()

        def steps(self):
            return [line.split()[0] for line in lines(self.effects)]

    return Held


@pytest.fixture
def cluster(transactional_db):
    """The PostgreSQL of these tests, to be stopped and killed; it runs again for the next test."""
    cluster = Cluster.of_environment()
    if cluster is None:
        pytest.skip("The tests may stop no PostgreSQL but their own: python -m tests.postgres pytest")
    yield cluster
    connections.close_all()
    if not cluster.runs():
        cluster.start()
