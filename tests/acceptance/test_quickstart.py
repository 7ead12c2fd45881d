"""The quickstart, followed to the letter in an empty folder."""

import os
import re
import shlex
import subprocess
import sys

import pytest

from django_jobs import embedded
from tests.conftest import ROOT

PAGE = ROOT / "docs" / "quickstart.md"
NOT_RUN = {
    "pip install": "the package under test is installed",
    "cd shop": "the commands after it run there",
    "python manage.py createsuperuser": "asks a person",
    "python manage.py runserver": "runs until Ctrl-C",
}


@pytest.fixture
def run(tmp_path):
    environment = {name: value for name, value in os.environ.items() if "REDIS" not in name}
    environment.pop("DJANGO_SETTINGS_MODULE", None)
    environment["PYTHONPATH"] = str(ROOT)

    def run(command):
        words = shlex.split(command)
        program = [sys.executable] if words[0] == "python" else [sys.executable, "-m", "django"]
        folder = tmp_path / "shop" if words[0] == "python" else tmp_path
        done = subprocess.run(
            [*program, *words[1:]],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        return done.returncode, done.stdout + done.stderr

    yield run
    embedded.stop(tmp_path / "shop" / ".django_jobs")


def test_the_quickstart_leads_to_a_finished_job(run, tmp_path):
    apps, database, task = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    shown = re.findall(r"^    (python .+|django-admin .+|pip .+|cd .+)$", PAGE.read_text(), re.MULTILINE)
    told = {}

    for command in shown:
        if any(command.startswith(left_out) for left_out in NOT_RUN):
            continue
        told[command] = run(command)
        if "startapp" in command:
            path = tmp_path / "shop" / "shop" / "settings.py"
            settings = re.sub(r"^INSTALLED_APPS = \[.*?^\]\n", apps, path.read_text(), flags=re.M | re.S)
            path.write_text(re.sub(r"^DATABASES = \{.*?^\}\n", database, settings, flags=re.M | re.S))
            (tmp_path / "shop" / "orders" / "tasks.py").write_text(task)

    codes = {command: code for command, (code, _) in told.items()}
    doctor = "python manage.py jobs_doctor"
    assert {command for command, code in codes.items() if code} <= {doctor}, told
    assert any("invoice 42 sent" in output for _, output in told.values())
    assert "rqworker" in told[doctor][1]
    status, _ = run("python manage.py jobs_redis stop")
    assert status == 0
