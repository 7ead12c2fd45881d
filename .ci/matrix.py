"""Run the tests on an old and a new Python and Django, each on PostgreSQL and on SQLite.

`make test` starts it, with pytest's arguments if there are any, in the project's environment. That serves for
its own Python; the environment of the other one is made inside it. A Python that is not installed is left
out, which the last line says and REQUIRE_ALL_CELLS=1 makes an error.

Without arguments all tests run on the old ones with PostgreSQL, all but the slowest on the new ones with
SQLite, and those of the core on the other two pairs; the coverage is measured with the new Python, where that
costs least.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DJANGO_ON_PYTHON = {"3.11": "5.2", "3.13": "6.1"}
CELLS_AT_ONCE = 2  # For two cores: the tests wait as much as they compute.
ALL_BUT_SLOWEST = ["--ignore=tests/acceptance/test_doctor.py"]
CORE = [
    "tests/acceptance/test_running.py",
    *(f"tests/integration/test_{name}.py" for name in ("enqueueing", "executor", "outcomes", "relay")),
]


def main(arguments: list[str]) -> int:
    interpreters = {version: find(version) for version in DJANGO_ON_PYTHON}
    pythons = [environment(version, found) for version, found in interpreters.items() if found]
    pythons = pythons or [sys.executable]
    measured = None if arguments else pythons[-1]
    with tempfile.TemporaryDirectory(prefix="django-jobs-tests-", ignore_cleanup_errors=True) as folder:
        os.environ["COVERAGE_FILE"] = f"{folder}/coverage"
        old, new = pythons[0], pythons[-1]
        chosen = [(old, "postgresql", arguments)]  # The longest first.
        if old != new:
            chosen += [
                (new, "sqlite", arguments or ALL_BUT_SLOWEST),
                (new, "postgresql", arguments or CORE),
            ]
        chosen.append((old, "sqlite", arguments or (CORE if old != new else [])))
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
    command = [python, "-m", *(["coverage", "run", "-m"] if measured else []), "pytest", *arguments]
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
