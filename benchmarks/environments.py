"""Makes the Python environment of each contestant: `.venv/bench-<app>`, beside the project's own.

All have the interpreter of the process that asks. An environment is made anew when what it needs has changed.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.contestants import Contestant

FOLDER = Path(sys.prefix)


class NotInstallable(Exception):
    """The packages of a contestant cannot be installed here; says why."""


def python_of(contestant: Contestant) -> str:
    """The interpreter of its environment, made before."""
    return str(_folder(contestant) / "bin" / "python") if contestant.packages else sys.executable


def install(contestant: Contestant) -> None:
    """Make its environment unless it is there. Raises `NotInstallable`."""
    if not contestant.packages:
        return
    folder = _folder(contestant)
    stamp, wanted = folder / "installed.json", json.dumps([sys.version, *contestant.packages])
    if stamp.exists() and stamp.read_text() == wanted:
        return
    print(f"Installing {', '.join(contestant.packages)} …", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        _run([sys.executable, "-m", "venv", str(folder)])
        _run([python_of(contestant), *_PIP, "install", "--quiet", *contestant.packages])
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if line.startswith("ERROR: No")] or ["?"]
        raise NotInstallable(lines[-1].removeprefix("ERROR: ")) from error
    stamp.write_text(wanted)


def versions(contestant: Contestant) -> str:
    """The versions of the packages that tell how fast it is."""
    done = _run([python_of(contestant), *_PIP, "list", "--format=json"])
    installed = {package["name"].lower(): package["version"] for package in json.loads(done.stdout)}
    names = [package.split("[")[0].split(">")[0] for package in contestant.packages or _OWN[contestant.app]]
    names = [name for name in names if name not in ("psycopg", "redis")]
    return ", ".join(f"{name} {installed[_stored(name, installed)]}" for name in names)


_PIP = ("-m", "pip", "--disable-pip-version-check")
_OWN = {"ours": ("rq", "django"), "rq": ("rq",)}


def _stored(name: str, installed: dict[str, str]) -> str:
    return name if name in installed else name.replace("-", "_")


def _folder(contestant: Contestant) -> Path:
    return FOLDER / f"bench-{contestant.app.replace('_', '-')}"


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=True, capture_output=True, text=True)
