"""The texts of the pages are translated, all of them, into each language that is shipped."""

import gettext
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import django_jobs

PACKAGE = Path(django_jobs.__file__).parent
LANGUAGES = ["zh_Hans", "zh_Hant"]


def call(*command, cwd=None):
    environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert not done.returncode, done.stderr


@pytest.fixture(scope="module", autouse=True)
def gettext_tools():
    missing = [tool for tool in ("xgettext", "msgfmt", "msgen") if not shutil.which(tool)]
    assert not missing, f"{', '.join(missing)} missing; install it: apt-get install gettext"


def catalogue(file):
    """{text, with its context; a plural has a number}: translation}"""
    with file.open("rb") as compiled:
        texts = gettext.GNUTranslations(compiled)._catalog
    return {text: translation for text, translation in texts.items() if text}


def compiled(po, to):
    call("msgfmt", "--check-format", "-o", str(to), str(po))
    return catalogue(to)


def source(language):
    return PACKAGE / "locale" / language / "LC_MESSAGES" / "django.po"


def shipped(language):
    return catalogue(source(language).with_suffix(".mo"))


def placeholders(text):
    return sorted(re.findall(r"%\(\w+\)[a-z]|\{\w*\}", text))


def msgids(texts):
    return {text[0] if isinstance(text, tuple) else text for text in texts}


@pytest.fixture(scope="module")
def english(gettext_tools, tmp_path_factory):
    """What is to be translated now, by itself."""
    folder = tmp_path_factory.mktemp("texts")
    copy = folder / "django_jobs"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("locale", "static", "__pycache__"))
    (copy / "locale").mkdir()
    makemessages = ["-m", "django", "makemessages", "--locale", "en", "--no-location"]
    call(sys.executable, *makemessages, cwd=copy)
    call("msgen", "-o", "english.po", "locale/en/LC_MESSAGES/django.po", cwd=copy)
    return compiled(copy / "english.po", copy / "english.mo")


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_is_translated_and_no_other(language, english):
    translated = msgids(shipped(language))

    assert msgids(english) - translated == set(), "run make messages, and translate these"
    assert translated - msgids(english) == set(), "run make messages"


@pytest.mark.parametrize("language", LANGUAGES)
def test_placeholders_stay_as_they_are(language, english):
    for text, translation in shipped(language).items():
        # Chinese has one form, for all numbers: that of the plural.
        original = english[text[0], 1] if isinstance(text, tuple) else english[text]

        assert placeholders(translation) == placeholders(original), text


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_compiled_catalogue_is_that_of_the_source(language, tmp_path):
    assert shipped(language) == compiled(source(language), tmp_path / "django.mo")


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_source_holds_nothing_unfinished_and_nothing_that_changes_by_itself(language):
    lines = source(language).read_text().splitlines()

    assert [line for line in lines if line.startswith(("#,", "#~", "#|")) and "format" not in line] == []
    assert [line for line in lines if line.startswith("#:") or "-Date:" in line] == []
    assert f'"Language: {language}\\n"' in lines
