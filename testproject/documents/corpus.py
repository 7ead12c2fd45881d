"""The documents of the demo: files of yours, or the descriptions of the installed Python packages."""

from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

SUFFIXES = {".txt", ".md", ".rst"}
SHORTEST_DESCRIPTION_CHARACTERS = 300


class CorpusError(Exception):
    """Raised when a path cannot be read as text; says which path and why."""


@dataclass(frozen=True)
class Source:
    name: str
    text: str


def files(paths):
    """Return the files, and those in the folders that end in .txt, .md or .rst, each once."""
    found = {}
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(
                file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file()
            )
            if not inside:
                raise CorpusError(f"{path} holds no .txt, .md or .rst file.")
            found |= dict.fromkeys(inside)
        else:
            found[path] = None
    return [Source(str(path), _read(path)) for path in found]


def installed_packages():
    """Return the long descriptions of this environment's packages, without the very short ones."""
    texts = {}
    for distribution in distributions():
        # Older metadata has the description in a field instead of the body.
        metadata = distribution.metadata
        text = metadata.get_payload() or metadata.get("Description", "")
        if len(text) >= SHORTEST_DESCRIPTION_CHARACTERS:
            # A package found twice counts as Python imports it: from the first folder of sys.path.
            texts.setdefault(metadata["Name"], text)
    return [Source(name, texts[name]) for name in sorted(texts, key=str.lower)]


def _read(path):
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise CorpusError(f"{path} does not exist; give files or folders.") from error
    except OSError as error:
        raise CorpusError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{path} is not UTF-8 text (byte {error.start}); convert it or leave it out."
        ) from error
    if "\0" in text:
        raise CorpusError(f"{path} is not text but a binary file; leave it out.")
    return text
