"""The pytest plugin in projects of other people: the guide's examples, and projects it is to leave alone."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import ROOT

GUIDE = (ROOT / "docs" / "howto" / "testing.md").read_text()
EXAMPLES = dict(re.findall(r"```python\n# (\S+\.py)\n(.*?)```", GUIDE, re.DOTALL))

SHOP = {
    "pytest.ini": """
        [pytest]
        DJANGO_SETTINGS_MODULE = shop.settings
        pythonpath = .
        filterwarnings = error
    """,
    "shop/settings.py": """
        import os

        SECRET_KEY = "for tests"
        INSTALLED_APPS = ["django_jobs", "django_rq", "shop"]
        INSTALLED_APPS += ["django.contrib.auth", "django.contrib.contenttypes"]
        ROOT_URLCONF = "shop.urls"
        USE_TZ = True
        MAILERS = {"default": {"BACKEND": "django.core.mail.backends.locmem.EmailBackend"}}
        DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
        if os.environ.get("DATABASE") == "postgresql":
            DATABASES = {
                "default": {
                    "ENGINE": "django.db.backends.postgresql",
                    "NAME": os.environ["DATABASE_NAME"],
                    "HOST": os.environ["PGHOST"],
                    "PORT": os.environ["PGPORT"],
                    "USER": os.environ["PGUSER"],
                    "TEST": {"NAME": "test_shop"},
                }
            }
        else:
            DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "shop.sqlite3"}}
    """,
    "shop/__init__.py": "",
    "shop/models.py": """
        from django.db import models

        class Order(models.Model):
            email = models.EmailField()
            status = models.CharField(max_length=20, default="new")
    """,
    "shop/urls.py": """
        from django.http import HttpResponse
        from django.urls import path

        urlpatterns = [path("", lambda request: HttpResponse("Welcome."))]
    """,
    **EXAMPLES,
}


@pytest.fixture
def project(tmp_path, unasked_server):
    """Write files into a folder where the package is installed, and run Python there."""
    installed = tmp_path / "installed"
    install(installed)
    folder = tmp_path / "project"
    environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    environment |= {
        "PYTHONPATH": str(installed),
        "PYTHONDONTWRITEBYTECODE": "1",  # In the package's own folder.
        "REDIS_URL": unasked_server,
    }

    def run(files, *arguments, **more_environment):
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(dedent(text))
        return subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=folder,
            env={**environment, **more_environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )

    return run


def install(folder):
    """What pip makes of the package in a folder: its code, and its entry points and files told."""
    told = folder / "django_jobs_admin-0.dist-info"
    told.mkdir(parents=True)
    (folder / "django_jobs").symlink_to(ROOT / "django_jobs")
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    lines = [
        line for group, points in groups.items() for line in (f"[{group}]", *map(" = ".join, points.items()))
    ]
    (told / "entry_points.txt").write_text("\n".join(lines))
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: django-jobs-admin\nVersion: 0\n")
    files = [path.relative_to(ROOT) for path in (ROOT / "django_jobs").rglob("*.py")]
    (told / "RECORD").write_text("".join(f"{path},,\n" for path in files))


def dedent(text):
    lines = text.strip("\n").splitlines()
    margin = len(lines[0]) - len(lines[0].lstrip()) if lines else 0
    return "\n".join(line[margin:] for line in lines) + "\n"


@pytest.mark.parametrize("settings_module", ["shop.settings", "shop.test_settings"])
def test_the_examples_of_the_guide_pass(project, settings_module):
    done = project(SHOP, "pytest", f"--ds={settings_module}")

    assert done.returncode == 0, done.stdout
    assert f"{sum(text.count('def test_') for text in EXAMPLES.values())} passed" in done.stdout


def test_the_example_for_djangos_test_case_passes_with_djangos_runner(project):
    done = project(SHOP, "django", "test", "tests.test_checkout_case", DJANGO_SETTINGS_MODULE="shop.settings")

    assert done.returncode == 0, done.stdout
    assert "Ran 1 test" in done.stdout


def test_a_failed_assertion_reads_as_in_the_guide(project):
    failing = """
        from shop.checkout import check_out
        from shop.models import Order
        from shop.tasks import send_invoice

        def test_it(enqueued_jobs):
            check_out(Order.objects.create(pk=42))
            enqueued_jobs.one(send_invoice, args=[43])
    """
    [expected] = re.findall(r"```text\n(AssertionError.*?)```", GUIDE, re.DOTALL)

    done = project({**SHOP, "tests/test_it.py": failing}, "pytest", "tests/test_it.py")

    assert done.returncode == 1, done.stdout
    raised = [line.removeprefix("E       ") for line in done.stdout.splitlines() if line.startswith("E ")]
    assert raised == expected.splitlines()
    assert "testing.py" not in done.stdout


def test_in_tests_that_commit_nothing_is_pushed_while_a_fixture_is_used(project):
    files = {
        "tests/test_it.py": """
            import pytest

            from django_jobs import relay
            from shop.tasks import remind
            from shop.models import Order

            @pytest.mark.django_db(transaction=True)
            def test_with_a_fixture(run_jobs, enqueued_jobs):
                remind.enqueue(Order.objects.create().pk)

                assert enqueued_jobs[0].status == "queued"
                assert [job.status for job in run_jobs()] == ["finished"]

            def test_without():
                assert relay.reaches_out()
        """
    }

    done = project({**SHOP, **files}, "pytest", "tests/test_it.py")

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("options", [[], ["-p", "no:django"]])
def test_a_project_without_django_notices_nothing(project, options):
    files = {
        "pytest.ini": "[pytest]\nfilterwarnings = error\n",
        "test_it.py": """
            import sys

            def test_it():
                assert "django_jobs.pytest_plugin" in sys.modules
                assert "django_jobs.models" not in sys.modules
                assert "django.db" not in sys.modules
        """,
    }

    done = project(files, "pytest", *options)

    assert done.returncode == 0, done.stdout


def test_where_the_app_is_not_installed_the_fixtures_say_so_and_the_rest_runs(project):
    files = {
        "settings.py": """
            SECRET_KEY = "for tests"
            INSTALLED_APPS = []
            DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
        """,
        "pytest.ini": "[pytest]\nDJANGO_SETTINGS_MODULE = settings\npythonpath = .\nfilterwarnings = error\n",
        "test_it.py": """
            def test_without_a_fixture(db):
                pass

            def test_with_one(run_jobs):
                pass
        """,
    }

    done = project(files, "pytest")

    assert "1 passed, 1 error" in done.stdout
    assert "isn't in an application in INSTALLED_APPS" in done.stdout


def test_the_guide_shows_no_file_that_is_not_tried():
    shown = re.findall(r"```python\n(.*)", GUIDE)

    assert [line for line in shown if not line.startswith("# ")] == []
    assert [Path(name).suffix for name in EXAMPLES] == [".py"] * len(shown)
