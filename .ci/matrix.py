"""Run the tests on an old and a new Python and Django, each on PostgreSQL and on SQLite.

`make test` starts it, with pytest's arguments if there are any, in the project's environment. That serves for
its own Python; the environment of the other one is made inside it. A Python that is not installed is left
out, which the last line says and REQUIRE_ALL_CELLS=1 makes an error.

With arguments, these tests run on all four pairs. Without, the old ones with PostgreSQL and the new ones with
SQLite run most of the tests, but those that start many processes, or ask the database little, on one of the
two only; the core runs on the other two pairs as well. Beside them runs a minute of chaos, and the control
that it has to notice. The coverage is measured with the new Python, where that costs least.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DJANGO_ON_PYTHON = {"3.11": "5.2", "3.13": "6.1"}
PARTS_AT_ONCE = 4  # For two cores: the tests wait more than they compute.
PROCESSES = ["tests/acceptance", "tests/faults"]
FUNCTIONS = ["tests/unit", "tests/integration"]
BESIDE_FUNCTIONS = ["tests/browser", "tests/chaos"]
ON_POSTGRESQL_ONLY = (
    *(f"acceptance/test_{name}.py" for name in ("async_tasks", "doctor", "faults", "prefork", "robustness")),
    "acceptance/test_stopping.py",
    "faults/test_postgresql_faults.py",
)
ON_SQLITE_ONLY = (
    *(f"acceptance/test_{name}.py" for name in ("names", "observer", "prefork_beside", "pytest_plugin")),
    *(f"acceptance/test_{name}.py" for name in ("quickstart", "running", "worker_command")),
    *(f"integration/test_{name}.py" for name in ("commands_documented", "commands_terminal", "docs")),
    *(f"integration/test_{name}.py" for name in ("embedded", "environment", "testing")),
    *(f"integration/test_admin_{name}.py" for name in ("capabilities", "dashboard", "enqueue", "errors")),
    *(f"integration/test_admin_{name}.py" for name in ("languages", "limits", "operations", "pages")),
    *(f"integration/test_admin_{name}.py" for name in ("queues", "workers")),
    *(f"integration/test_documents_{name}.py" for name in ("demo", "feeding", "pages", "processes", "tasks")),
    "faults/test_sqlite_faults.py",
)
# Beside the core, where there is time left: on the new ones with PostgreSQL, on the old ones with SQLite.
WITH_CORE_ON_POSTGRESQL = [f"faults/test_{name}.py" for name in ("crash_points", "full_redis", "leaks")]
WITH_CORE_ON_SQLITE = ["faults/test_redis_faults.py"]
# What shows that a worker with a process for each job does as well.
WITH_FORKS = [f"tests/acceptance/test_{name}.py" for name in ("running", "stopping")]
CORE = [f"tests/integration/test_{name}.py" for name in ("enqueueing", "executor", "outcomes", "relay")]
CHAOS = ["--seed=17", "--seconds=60"]
CONTROL = ["--seed=5", "--seconds=35", "--mutant=unguarded-claim", "--expect-findings"]


def main(arguments: list[str]) -> int:
    interpreters = {version: find(version) for version in DJANGO_ON_PYTHON}
    pythons = [environment(version, found) for version, found in interpreters.items() if found]
    pythons = pythons or [sys.executable]
    measured = None if arguments else pythons[-1]
    with tempfile.TemporaryDirectory(prefix="django-jobs-tests-", ignore_cleanup_errors=True) as folder:
        os.environ["COVERAGE_FILE"] = f"{folder}/coverage"
        if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
            # Without any, hundreds of processes would compile all that they import.
            os.environ["PYTHONPYCACHEPREFIX"] = f"{folder}/bytecode"
        old, new = pythons[0], pythons[-1]
        cell = partial(test, measured=measured, folder=Path(folder), isolation="prefork")
        if old == new or arguments:
            parts = [
                partial(cell, python, database, arguments)
                for python in dict.fromkeys((new, old))
                for database in ("sqlite", "postgresql")
            ]
        else:
            parts = [
                partial(cell, new, "sqlite", FUNCTIONS),
                partial(cell, new, "sqlite", [*PROCESSES, *but(ON_POSTGRESQL_ONLY)]),
                partial(cell, old, "postgresql", [*PROCESSES, *but(ON_SQLITE_ONLY)]),
                partial(cell, old, "postgresql", [*FUNCTIONS, *but(ON_SQLITE_ONLY)]),
                partial(cell, new, "sqlite", BESIDE_FUNCTIONS),
                partial(cell, new, "postgresql", core_with(WITH_CORE_ON_POSTGRESQL)),
                partial(cell, old, "sqlite", core_with(WITH_CORE_ON_SQLITE)),
                partial(cell, old, "sqlite", WITH_FORKS, isolation="fork"),
            ]
        if not arguments:
            parts += [partial(chaos, old, "Chaos", CHAOS), partial(chaos, old, "Control of it", CONTROL)]
        with ThreadPoolExecutor(PARTS_AT_ONCE) as pool:
            verdicts = dict(pool.map(lambda part: part(), parts))
        if measured and all(verdicts.values()):
            verdicts["Coverage"] = coverage_suffices(measured)
    for subject, passed in verdicts.items():
        print(f"{'passed' if passed else 'FAILED'}: {subject}")
    left_out = [version for version, found in interpreters.items() if not found]
    for version in left_out:
        print(
            f"NOT TESTED: Python {version}, Django {DJANGO_ON_PYTHON[version]}: no python{version} on PATH "
            f"or in ~/.pyenv/versions. Install one, say with: uv python install {version}"
        )
    return 0 if all(verdicts.values()) and not (left_out and os.environ.get("REQUIRE_ALL_CELLS")) else 1


def but(names: Sequence[str]) -> list[str]:
    elsewhere = (*WITH_CORE_ON_POSTGRESQL, *WITH_CORE_ON_SQLITE)
    return [f"--ignore=tests/{name}" for name in (*names, *elsewhere)]


def core_with(names: Sequence[str]) -> list[str]:
    return [*CORE, *(f"tests/{name}" for name in names)]


def find(version: str) -> str | None:
    """A Python of this version that runs, which what pyenv lays on PATH may not."""
    if sys.version.startswith(f"{version}."):
        return sys.executable
    of_pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    for candidate in (shutil.which(f"python{version}"), *of_pyenv):
        if candidate and not subprocess.run([candidate, "-c", ""], capture_output=True).returncode:
            return str(candidate)
    return None


def environment(version: str, interpreter: str) -> str:
    """The Python of an environment with what the tests need, made when that has changed."""
    if interpreter == sys.executable:
        return interpreter
    folder, needs = Path(sys.prefix, f"python{version}"), ROOT / "pyproject.toml"
    python, stamp = folder / "bin" / "python", folder / "installed"
    if not stamp.exists() or stamp.stat().st_mtime < needs.stat().st_mtime:
        pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        wanted = ["--editable", ".[test]", f"django=={DJANGO_ON_PYTHON[version]}.*"]
        subprocess.run([interpreter, "-m", "venv", folder], check=True)
        subprocess.run([*pip, "install", "--no-compile", *wanted], cwd=ROOT, check=True)
        stamp.touch()
    return str(python)


def test(
    python: str,
    database: str,
    arguments: list[str],
    *,
    measured: str | None,
    folder: Path,
    isolation: str,
) -> tuple[str, bool]:
    """Run the tests on data of their own and show what they printed; what was tested, and if they passed."""
    parts = ", ".join(Path(each).stem for each in arguments if not each.startswith("-"))
    cell = f"{versions(python)}, {database}, {isolation}: {parts or 'all'}"
    data = Path(tempfile.mkdtemp(dir=folder))
    command = [
        python,
        "-m",
        *(["coverage", "run", "-m"] if python == measured else []),
        "pytest",
        "--durations=20",
        *arguments,
    ]
    if database == "postgresql":
        command = [python, "-m", "tests.postgres", *command]
    env = {**os.environ, "DATABASE": database, "PROJECT_DATA": str(data), "ISOLATION": isolation}
    return cell, run(cell, command, data / "output", env)


def chaos(python: str, name: str, arguments: list[str]) -> tuple[str, bool]:
    with tempfile.TemporaryDirectory(prefix="django-jobs-tests-") as folder:
        env = {**os.environ, "PROJECT_DATA": folder}
        return name, run(name, [python, "-m", "tests.chaos", *arguments], Path(folder, "output"), env)


def run(name: str, command: list[str], told: Path, env: dict[str, str]) -> bool:
    """Run the command and show what it printed; True if it succeeded."""
    print(f"===== {name}: started", flush=True)
    began = time.monotonic()
    # To a file, as a process that outlives the tests would keep a pipe open.
    with told.open("w+") as output:
        done = subprocess.run(
            command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        output.seek(0)
        text = output.read()
    ended = f"ended after {time.monotonic() - began:.0f} s with exit code {done.returncode}"
    print(f"===== {name}: {ended}\n{text}", flush=True)
    return done.returncode == 0


def versions(python: str) -> str:
    code = (
        "import django, platform; print(f'Python {platform.python_version()}, Django {django.__version__}')"
    )
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def coverage_suffices(python: str) -> bool:
    """Put together and show what all measured processes ran; False if it is less than pyproject.toml asks."""
    subprocess.run([python, "-m", "coverage", "combine", "--quiet"], cwd=ROOT, check=True)
    return subprocess.run([python, "-m", "coverage", "report"], cwd=ROOT).returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
