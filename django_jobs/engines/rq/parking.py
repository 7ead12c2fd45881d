"""Where deliveries of other installations end up that came to one of our workers: projects share a server.

Their own installation delivers them anew. Here stands for a day which they were, so that people learn of it.
"""

import json
from collections.abc import Iterable
from contextlib import suppress

from redis import Redis
from rq.defaults import RQ_KEY_PREFIX

PARKED_KEY = f"{RQ_KEY_PREFIX}:django_jobs:parked"
MOST_PARKED = 1_000
KEPT_SECONDS = 86_400


def park(client: Redis, queue: str, delivery_id: str, installation: str) -> None:
    told = json.dumps({"queue": queue, "delivery": delivery_id, "installation": str(installation)[:100]})
    with client.pipeline(transaction=False) as pipeline:
        pipeline.lpush(PARKED_KEY, told)
        pipeline.ltrim(PARKED_KEY, 0, MOST_PARKED - 1)
        pipeline.expire(PARKED_KEY, KEPT_SECONDS)
        pipeline.execute()


def read(items: Iterable[bytes]) -> dict[str, dict[str, str]]:
    """{queue: {delivery's id: its installation}} of what was parked."""
    found: dict[str, dict[str, str]] = {}
    for item in items:
        with suppress(ValueError, TypeError, KeyError):  # Somebody else has written it.
            told = json.loads(item)
            found.setdefault(told["queue"], {})[told["delivery"]] = str(told["installation"])
    return found
