"""`rq worker -c tests.plain_rq`: RQ's own worker in a process that knows Django, and nothing else of ours."""

import os

import django

django.setup()

REDIS_URL = os.environ["REDIS_URL"]
