"""A real browser: Debian's Chromium, driven by Playwright. Where it is missing, these tests fail."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--in-process-gpu"),
    *("--disable-background-networking", "--disable-component-update"),
]
expect.set_options(timeout=30_000)  # Beside other tests, a machine may stand still for seconds.


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """For one module only: as long as Playwright runs, this thread seems to run an event loop."""
    with pytest.MonkeyPatch.context() as patch, sync_playwright() as playwright:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")  # Else Django's ORM refuses to work beside that loop.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


class Pages:
    """Opens pages, each in a context of its own, and keeps what the browser complains of in any of them."""

    def __init__(self, browser: Browser) -> None:
        self.complaints: list[str] = []
        self._browser = browser
        self._expected: list[str] = []

    def __call__(self, url: str = "", **context: Any) -> Page:
        """`context` as Playwright's `new_context()` takes it, such as `viewport` or `java_script_enabled`."""
        page = self._browser.new_context(**context).new_page()
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        if url:
            page.goto(url)
        return page

    def expect_complaint(self, pattern: str) -> None:
        """Let such a complaint pass, as of an answer that is an error on purpose."""
        self._expected.append(pattern)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):  # Chromium tells violations of a policy here too.
            self.complaints.append(message.text)

    def close(self) -> None:
        for context in self._browser.contexts:
            context.close()
        unexpected = [
            complaint
            for complaint in self.complaints
            if not any(re.search(pattern, complaint) for pattern in self._expected)
        ]
        assert not unexpected


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open a page at a URL; at the end, the browser must have had nothing to complain of."""
    pages = Pages(browser)
    yield pages
    pages.close()
