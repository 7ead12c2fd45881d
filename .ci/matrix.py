"""Run the tests on an old and a new Python and Django, each on PostgreSQL and on SQLite.

`make test` starts it, with pytest's arguments if there are any, in the project's environment. That serves for
its own Python; the environment of the other one is made inside it. A Python that is not installed is left
out, which the last line says and REQUIRE_ALL_CELLS=1 makes an error.

With arguments, these tests run on all four pairs. Without, all run on the old ones with PostgreSQL and on the
new ones with SQLite, but for the acceptance tests that start many processes and ask the database little: each
of them on one of the two. Those of the core run on the other pairs as well. The coverage is measured with the
new Python, where that costs least.
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
CELLS_AT_ONCE = 2  # For two cores: the tests wait as much as they compute.
ON_POSTGRESQL_ONLY = ("async_tasks", "doctor", "robustness", "stopping")
ON_SQLITE_ONLY = ("names", "observer", "pytest_plugin", "quickstart", "worker_command")
CORE = [f"tests/integration/test_{name}.py" for name in ("enqueueing", "executor", "outcomes", "relay")]


def main(arguments: list[str]) -> int:
    interpreters = {version: find(version) for version in DJANGO_ON_PYTHON}
    pythons = [environment(version, found) for version, found in interpreters.items() if found]
    pythons = pythons or [sys.executable]
    measured = None if arguments else pythons[-1]
    with tempfile.TemporaryDirectory(prefix="django-jobs-tests-", ignore_cleanup_errors=True) as folder:
        os.environ["COVERAGE_FILE"] = f"{folder}/coverage"
        old, new = pythons[0], pythons[-1]
        if old == new:
            chosen = [(old, "postgresql", arguments), (old, "sqlite", arguments)]
        else:
            chosen = [  # The longest first.
                (new, "sqlite", arguments or all_without(ON_POSTGRESQL_ONLY)),
                (old, "postgresql", arguments or all_without(ON_SQLITE_ONLY)),
                (new, "postgresql", arguments or CORE),
                (old, "sqlite", arguments or CORE),
            ]
        cells = [
            partial(test, python, database, tests, measured=python == measured, folder=Path(folder))
            for python, database, tests in chosen
        ]
        with ThreadPoolExecutor(CELLS_AT_ONCE) as pool:
            verdicts = dict(pool.map(lambda cell: cell(), cells))
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


def all_without(names: Sequence[str]) -> list[str]:
    return [f"--ignore=tests/acceptance/test_{name}.py" for name in names]


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
    python: str, database: str, arguments: list[str], *, measured: bool, folder: Path
) -> tuple[str, bool]:
    """Run the tests on data of their own and show what they printed; what was tested, and if they passed."""
    cell = f"{versions(python)}, {database}"
    data = folder / cell.replace(", ", "-").replace(" ", "-")
    data.mkdir()
    command = [
        python,
        "-m",
        *(["coverage", "run", "-m"] if measured else []),
        "pytest",
        "--durations=20",
        *arguments,
    ]
    if database == "postgresql":
        command = [python, "-m", "tests.postgres", *command]
    env = {**os.environ, "DATABASE": database, "PROJECT_DATA": str(data)}
    print(f"===== {cell}: started", flush=True)
    began = time.monotonic()
    # To a file, as a process that outlives the tests would keep a pipe open.
    with (data / "output").open("w+") as output:
        done = subprocess.run(
            command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        output.seek(0)
        told = output.read()
    ended = f"ended after {time.monotonic() - began:.0f} s with exit code {done.returncode}"
    print(f"===== {cell}: {ended}\n{told}", flush=True)
    return cell, done.returncode == 0


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
