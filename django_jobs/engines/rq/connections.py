"""Connections to the servers that django-rq's `RQ_QUEUES` declares."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django_rq.connection_utils import get_redis_connection
from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry

from ...exceptions import EngineUnavailable

_TIMEOUT_SECONDS = 1


def declared_queues() -> dict[str, dict[str, Any]]:
    """django-rq's `RQ_QUEUES`: {queue: connection and defaults}."""
    return getattr(settings, "RQ_QUEUES", None) or {}


def impatient_client(queue: str) -> Redis:
    """A client for requests: one try of at most a second, then an error.

    One for all queues of a server, and another in each process: connections are not shared across a fork.
    """
    declared = declared_queues()[queue]
    parameters = {key: value for key, value in declared.items() if not key.startswith("DEFAULT_")}
    key = (os.getpid(), repr(sorted(parameters.items())))
    if key not in _clients:
        client = get_redis_connection(declared)
        manager = getattr(client.connection_pool, "sentinel_manager", None)
        for each in (client, *(manager.sentinels if manager else ())):
            each.connection_pool.connection_kwargs.update(
                socket_timeout=_TIMEOUT_SECONDS,
                socket_connect_timeout=_TIMEOUT_SECONDS,
                # A repeated push after a lost reply is the relay's business, not the client's.
                retry=Retry(NoBackoff(), 0),
            )
        _clients[key] = client
    return _clients[key]


_clients: dict[tuple[int, str], Redis] = {}  # {(process id, connection parameters): client}


def masked_url(client: Redis) -> str:
    """Where a client connects to, without its password."""
    told = client.connection_pool.connection_kwargs
    secret = f"{told.get('username') or ''}:***@" if told.get("password") else ""
    database = told.get("db") or 0
    if path := told.get("path"):
        return f"unix://{secret}{path}?db={database}"
    if service := getattr(client.connection_pool, "service_name", None):
        return f"sentinel://{secret}{service}/{database}"
    scheme = "rediss" if "ssl_cert_reqs" in told else "redis"
    return f"{scheme}://{secret}{told.get('host', 'localhost')}:{told.get('port', 6379)}/{database}"


@contextmanager
def reached(client: Redis) -> Iterator[Redis]:
    """Turn the client's errors into `EngineUnavailable`, which names the server."""
    try:
        yield client
    except (RedisError, OSError) as error:
        raise EngineUnavailable(f"Redis at {masked_url(client)}: {error}") from error
