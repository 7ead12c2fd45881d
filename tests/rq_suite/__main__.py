"""Run RQ's own tests of workers with a worker class of ours: `python -m tests.rq_suite [pytest's arguments]`.

RQ's source archive of the installed version holds the tests. pip fetches it once into the environment; of it
only the package `tests` is unpacked, and nothing of it is in this repository. In every Python that is started
here, `inside/sitecustomize.py` puts our class in the place of RQ's. `listed.toml` names the tests that cannot
pass, and why; one of them that passes all the same is a failure, too.

The tests use fixed names in /tmp, so run one suite at a time.
"""

import os
import signal
import subprocess
import sys
import tarfile
import tempfile
from argparse import ArgumentParser
from importlib import metadata
from pathlib import Path

from django_jobs import embedded

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
WORKER = "django_jobs.engines.rq.worker.JobsWorker"
# It is about another worker class of RQ, which nobody replaces.
OF_OTHERS = {"test_spawn_worker.py"}


def main() -> int:
    parser = ArgumentParser(
        prog="python -m tests.rq_suite", description="Other arguments go to pytest.", allow_abbrev=False
    )
    parser.add_argument("--worker", default=WORKER, help="dotted path of the class (default: %(default)s)")
    options, arguments = parser.parse_known_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Told to stop."))  # The server ends with this process.
    archive = unpacked()
    for left_behind in Path("/tmp").glob(".rq_sentinel*"):  # By a run that was cut.
        left_behind.unlink()
    with tempfile.TemporaryDirectory(prefix="django-jobs-rq-suite-", ignore_cleanup_errors=True) as folder:
        environment = {
            **os.environ,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
            # RQ's package is called `tests` as well, and comes first.
            "PYTHONPATH": os.pathsep.join(map(str, [archive, HERE / "inside", ROOT])),
            "DJANGO_SETTINGS_MODULE": "rq_suite_settings",
            "PROJECT_DATA": folder,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "RUN_SLOW_TESTS_TOO": "1",
        }
        valkey = Path(folder, "valkey")
        embedded.start(valkey)
        try:
            migrate = [sys.executable, "-m", "django", "migrate", "--skip-checks", "--verbosity=0"]
            subprocess.run(migrate, cwd=archive, env=environment, check=True)
            if not any(argument.startswith("tests/") for argument in arguments):
                arguments += modules(archive)
            command = [
                sys.executable,
                *("-m", "pytest", "-c", str(HERE / "inside" / "pytest.ini"), "--rootdir", str(archive)),
                *("-p", "rq_suite_plugin", *arguments),
            ]
            environment["RQ_SUITE_WORKER"] = options.worker
            return subprocess.run(command, cwd=archive, env=environment).returncode
        finally:
            embedded.stop(valkey)


def unpacked() -> Path:
    """The folder that holds the tests of the installed RQ, made if it is not there."""
    version = metadata.version("rq")
    name, cache = f"rq-{version}", Path(sys.prefix, "rq-tests")
    if (cache / name).exists():
        return cache / name
    cache.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "download"]
        subprocess.run(
            [*pip, "--no-deps", "--no-binary=rq", f"--dest={folder}", f"rq=={version}"], check=True
        )
        with tarfile.open(Path(folder, f"{name}.tar.gz")) as archive:
            told = archive.extractfile(f"{name}/PKG-INFO")
            if not told or f"\nVersion: {version}\n" not in told.read().decode():
                sys.exit(f"{name}.tar.gz does not say that it is of version {version}.")
            members = [member for member in archive if member.name.startswith(f"{name}/tests/")]
            archive.extractall(folder, members, filter="data")
        Path(folder, name).rename(cache / name)
    return cache / name


def modules(archive: Path) -> list[str]:
    """The test modules in which workers occur."""
    found = sorted(path for path in archive.glob("tests/test_*.py") if "worker" in path.read_text().lower())
    return [f"tests/{path.name}" for path in found if path.name not in OF_OTHERS]


if __name__ == "__main__":
    sys.exit(main())
