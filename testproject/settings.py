"""The test project: SQLite and an embedded Valkey unless the environment names others.

DATABASE        "sqlite" (default) or "postgresql"; the latter takes PGHOST, PGPORT, PGUSER, PGPASSWORD
DATABASE_NAME   file of SQLite, name of the PostgreSQL database
REDIS_URL       a server of your own instead of the embedded one
PROJECT_DATA    folder for the database file and the embedded server, ".demo" by default
"""

import os
from pathlib import Path

from django_jobs import embedded

BASE_DIR = Path(__file__).resolve().parent.parent
PROJECT_DATA = Path(os.environ.get("PROJECT_DATA", BASE_DIR / ".demo"))
PROJECT_DATA.mkdir(parents=True, exist_ok=True)

SECRET_KEY = "only for the demo and the tests; the server listens on this machine alone"
DEBUG = True
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "testserver"]

INSTALLED_APPS = [
    "django_jobs",
    "django_rq",
    "testproject.documents",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
ROOT_URLCONF = "testproject.urls"
WSGI_APPLICATION = "testproject.wsgi.application"
STATIC_URL = "static/"
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

if os.environ.get("DATABASE") == "postgresql":
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": os.environ.get("DATABASE_NAME", "django_jobs"),
            "HOST": os.environ.get("PGHOST", ""),
            "PORT": os.environ.get("PGPORT", ""),
            "USER": os.environ.get("PGUSER", ""),
            "PASSWORD": os.environ.get("PGPASSWORD", ""),
        }
    }
else:
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": os.environ.get("DATABASE_NAME", PROJECT_DATA / "db.sqlite3"),
            # The web server and the workers write at once: readers must not block writers (WAL), a
            # transaction takes the write lock at its start (IMMEDIATE) and waits for it up to 30 s.
            "OPTIONS": {
                "timeout": 30,
                "transaction_mode": "IMMEDIATE",
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
            },
            "TEST": {"NAME": PROJECT_DATA / "test.sqlite3"},
        }
    }

REDIS_URL = os.environ.get("REDIS_URL") or embedded.url(PROJECT_DATA / "valkey")
RQ_QUEUES = {
    name: {"URL": REDIS_URL, "DEFAULT_TIMEOUT": 600}
    for name in ("file_processing", "vectorization", "kg_extraction")
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": "INFO"},
}
