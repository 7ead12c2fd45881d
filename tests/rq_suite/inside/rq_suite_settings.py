"""Django's settings in RQ's test suite: the test project's, and any queue is declared."""

from testproject.settings import *  # noqa: F403
from testproject.settings import INSTALLED_APPS as ALL_APPS

INSTALLED_APPS = [app for app in ALL_APPS if app != "testproject.documents"]
LOGGING_CONFIG = None


class AnyQueue(dict):
    def __missing__(self, name):
        return self["default"]


RQ_QUEUES = AnyQueue(default={"URL": REDIS_URL})  # noqa: F405
