"""The colours of the admin's stylesheet: they can be read, light and dark."""

import re
from pathlib import Path

import pytest

import django_jobs

CSS = (Path(django_jobs.__file__).parent / "static" / "django_jobs" / "admin.css").read_text()
TONES = ["ok", "warn", "bad", "info", "quiet"]
FILLS = ["finished", "failed", "running", "waiting", "backing-off"]
# The grounds of Django's admin: the page, what is a bit darker, a ticked row.
GROUNDS = {"light": ["#ffffff", "#f8f8f8", "#ffffcc"], "dark": ["#121212", "#212121", "#00363a"]}


def tokens(selector):
    block = re.search(rf"{re.escape(selector)} {{(.*?)}}", CSS, re.DOTALL)
    return dict(re.findall(r"--jobs-([\w-]+): (#\w{6});", block[1]))


THEMES = {"light": tokens(":root"), "dark": tokens('html[data-theme="dark"]')}


def luminance(colour):
    parts = (int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5))
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    """As WCAG 2.2 defines it: from 1 to 21."""
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_contrast_is_computed_as_wcag_does():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("tone", TONES)
def test_text_in_a_tone_can_be_read_on_its_ground_and_on_the_pages(theme, tone):
    colours = THEMES[theme]

    for ground in (colours[f"{tone}-bg"], *GROUNDS[theme]):
        assert contrast(colours[tone], ground) >= 4.5, ground


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("name", [*(f"fill-{fill}" for fill in FILLS), "line-p50", "line-p95"])
def test_what_is_drawn_stands_out_from_the_page(theme, name):
    for ground in GROUNDS[theme][:2]:
        assert contrast(THEMES[theme][name], ground) >= 3, ground


def test_dark_is_the_same_whether_chosen_or_by_the_system():
    by_system = tokens('html:not([data-theme="light"], [data-theme="dark"])')

    assert by_system == THEMES["dark"]
    assert by_system.keys() == THEMES["light"].keys()


def test_every_colour_that_is_used_is_defined():
    used = set(re.findall(r"var\(--jobs-([\w-]+)\)", CSS))

    assert used - {"tone", "tone-bg", "icon", "mark", "gap"} <= THEMES["light"].keys()


def test_what_is_laid_out_follows_the_direction_of_the_language():
    assert not re.findall(r"\b(?:margin|padding|border|inset)-(?:left|right)|text-align: (?:left|right)", CSS)


def test_everything_of_ours_is_named_as_ours():
    """And nothing of the admin's own is restyled from here, but what lies within."""
    of_admin = {"flex-container", "readonly", "breadcrumbs", "field-short_call", "field-short_error"}

    names = set(re.findall(r"\.([a-z][\w-]+)(?=[^{}]*{)", CSS)) - of_admin - {"field-since"}

    assert {name for name in names if not name.startswith("jobs-")} == set()
