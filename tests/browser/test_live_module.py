"""The module that keeps pages fresh, in a real browser, on a page with a strict policy of content."""

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.conftest import wait_until

STATIC = Path(__file__).resolve().parents[2] / "django_jobs" / "static" / "django_jobs"
PAGE = """<!doctype html><html lang="en"><head><title>Jobs</title><link rel="icon" href="/icon">
<link rel="stylesheet" href="/static/admin.css"><script type="module" src="/static/live.js"></script></head>
<body {body}>
<p class="jobs-status" role="status" data-jobs-status data-jobs-updated="Updated {{ago}}"
   data-jobs-paused="Paused; last updated {{ago}}"
   data-jobs-reconnecting="Reconnecting… last updated {{ago}}" data-jobs-signed-out="You are signed out."
   data-jobs-gone="It is gone.">
</p>
<input data-jobs-search aria-label="Search"> <a href="/workers" data-jobs-go="w">Workers</a>
<form><div id="jobs-region" data-jobs-live="/region" data-jobs-interval="{interval}">{region}</div>
<label data-jobs-tick-all hidden><input type="checkbox">All</label></form>
<section><pre>add.enqueue(1, 2)</pre><button hidden data-jobs-copy="Copied">Copy</button></section>
<dialog class="jobs-help" data-jobs-help><form method="dialog"><button>Close</button></form></dialog>
</body></html>"""

HIDE = """hidden => {
    Object.defineProperty(document, "hidden", {value: hidden, configurable: true});
    document.dispatchEvent(new Event("visibilitychange"));
}"""


def row(key: str, text: str) -> str:
    return (
        f'<tr data-jobs-key="{key}"><td><input type="checkbox" name="pk" value="{key}"></td>'
        f'<th><a href="/job/{key}">{key}</a></th><td class="text">{text}</td>'
        f"<td><details><summary>more</summary>inside {text}</details></td></tr>"
    )


def table(*rows: str) -> str:
    return f'<table class="jobs-table"><tbody>{"".join(rows)}</tbody></table>'


class Site:
    """Serves one page and its region, which the test changes, and remembers who asked for it and how."""

    def __init__(self) -> None:
        self.region = table(row("a", "one"), row("b", "one"))
        self.interval = "1"
        self.body = ""
        self.status = 200
        self.asked: list[tuple[str | None, int]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, path: str, known: str | None) -> tuple[int, dict[str, str], bytes]:
        if path.startswith("/static/"):
            kind = "text/javascript" if path.endswith(".js") else "text/css"
            return 200, {"Content-Type": kind}, (STATIC / path.removeprefix("/static/")).read_bytes()
        if path == "/icon":
            return 204, {}, b""
        if path == "/region":
            etag = f'"{hash(self.region)}"'
            status = 304 if self.status == 200 and known == etag else self.status
            self.asked.append((known, status))
            headers = {"ETag": etag} if status == 200 else {"Location": "/login"} if status == 302 else {}
            return status, headers, self.region.encode() if status == 200 else b""
        page = PAGE.format(body=self.body, interval=self.interval, region=self.region)
        policy = {"Content-Security-Policy": "default-src 'self'", "Content-Type": "text/html; charset=utf-8"}
        return 200, policy, page.encode()

    def _handler(site) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, headers, body = site.answer(self.path, self.headers["If-None-Match"])
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if status not in (204, 304):
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                pass

        return Handler


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()


def show(site: Site, page: Page, *rows: str) -> None:
    """Change the region, and wait until the page has asked twice: what it can show of it, it shows then."""
    site.region = table(*rows)
    before = len(site.asked)
    wait_until(lambda: passed(page) and len(site.asked) >= before + 2, timeout_seconds=20)


def passed(page: Page) -> bool:
    """Let the browser's events be handled, which only calls to it do."""
    page.evaluate("0")
    return True


def text_of(page: Page, key: str):
    return page.locator(f'[data-jobs-key="{key}"] .text')


def test_what_has_changed_is_shown(site, open_page):
    page = open_page(site.url)

    site.region = table(row("a", "two"), row("c", "new"))

    expect(text_of(page, "a")).to_have_text("two")
    expect(text_of(page, "c")).to_have_text("new")
    expect(page.locator("tr")).to_have_count(2)
    expect(page.get_by_role("status")).to_contain_text("Updated")


def test_what_says_that_it_is_final_is_asked_for_no_more(site, open_page):
    page = open_page(site.url)

    site.region = "<p data-jobs-final>ended</p>"
    expect(page.locator("#jobs-region")).to_have_text("ended")
    asked = len(site.asked)

    expect(page.get_by_role("status")).to_contain_text("5 sec. ago")
    assert len(site.asked) == asked


def test_what_is_unchanged_is_answered_with_304_and_left_alone(site, open_page):
    page = open_page(site.url)
    wait_until(lambda: passed(page) and site.asked, timeout_seconds=20)
    page.evaluate("window.before = document.querySelector('tr')")

    wait_until(lambda: passed(page) and site.asked[-1][1] == 304, timeout_seconds=20)

    assert site.asked[-1][0] == f'"{hash(site.region)}"'
    assert page.evaluate("window.before === document.querySelector('tr')")
    expect(page.locator("#jobs-region")).not_to_have_class("jobs-stale")


def test_focus_stays_while_its_row_is_refreshed_and_moved_down(site, open_page):
    page = open_page(site.url)
    page.locator('[data-jobs-key="b"] a').focus()

    show(site, page, row("z", "new"), row("a", "two"), row("b", "two"))

    expect(page.locator('[data-jobs-key="b"] a')).to_be_focused()
    expect(text_of(page, "b")).to_have_text("two")
    assert page.locator("tr").evaluate_all("rows => rows.map(row => row.dataset.jobsKey)") == ["z", "a", "b"]


def test_a_row_in_focus_stays_after_it_has_left_the_list_until_it_is_let_go(site, open_page):
    page = open_page(site.url)
    page.locator('[data-jobs-key="b"] a').focus()
    show(site, page, row("a", "two"))
    expect(page.locator('[data-jobs-key="b"] a')).to_be_focused()

    page.locator("[data-jobs-search]").focus()

    expect(page.locator('[data-jobs-key="b"]')).to_have_count(0)


def test_an_open_fold_stays_as_it_is_while_the_rest_is_refreshed(site, open_page):
    page = open_page(site.url)
    page.locator('[data-jobs-key="b"] summary').click()
    page.locator("[data-jobs-search]").focus()

    show(site, page, row("a", "two"), row("b", "two"))

    fold = page.locator('[data-jobs-key="b"] details')
    expect(fold).to_have_attribute("open", "")
    expect(fold).to_contain_text("inside one")
    expect(text_of(page, "b")).to_have_text("two")
    fold.locator("summary").click()
    page.locator("[data-jobs-search]").focus()
    expect(fold).to_contain_text("inside two")


def test_a_selected_text_stays_until_it_is_let_go(site, open_page):
    page = open_page(site.url)
    text_of(page, "a").evaluate("cell => getSelection().selectAllChildren(cell)")

    show(site, page, row("a", "two"), row("b", "two"))

    assert page.evaluate("String(getSelection())").strip() == "one"
    expect(text_of(page, "b")).to_have_text("two")
    page.evaluate("getSelection().removeAllRanges()")
    expect(text_of(page, "a")).to_have_text("two")


def test_a_ticked_box_stays_with_its_row(site, open_page):
    page = open_page(site.url)
    page.locator("input[value=b]").check()

    show(site, page, row("z", "new"), row("b", "two"), row("a", "two"))

    expect(page.locator("input[value=b]")).to_be_checked()
    assert page.locator("input:checked").count() == 1


def test_a_ticked_row_that_has_left_the_list_stays_below_it_until_it_is_unticked(site, open_page):
    page = open_page(site.url)
    page.locator("input[value=b]").check()
    page.locator("[data-jobs-search]").focus()

    show(site, page, row("x", "new"), row("y", "new"))

    expect(page.locator("input[value=b]")).to_be_checked()
    assert page.locator("tr").evaluate_all("rows => rows.map(row => row.dataset.jobsKey)") == ["x", "y", "b"]
    page.locator("input[value=b]").uncheck()
    page.locator("[data-jobs-search]").focus()
    expect(page.locator("input[value=b]")).to_have_count(0)


def test_one_box_ticks_all_rows_and_tells_whether_all_are_ticked(site, open_page):
    page = open_page(site.url)
    every = page.get_by_label("All")
    ticked = page.locator("tbody input:checked")

    every.check()
    expect(ticked).to_have_count(2)
    page.locator("input[value=a]").uncheck()
    expect(every).not_to_be_checked()
    expect(every).to_have_js_property("indeterminate", True)
    page.locator("input[value=a]").check()
    expect(every).to_be_checked()
    every.uncheck()
    expect(ticked).to_have_count(0)


def test_rows_that_come_later_are_not_taken_for_ticked(site, open_page):
    page = open_page(site.url)
    page.get_by_label("All").check()

    show(site, page, row("a", "one"), row("b", "one"), row("z", "new"))

    expect(page.locator("input[value=z]")).not_to_be_checked()
    expect(page.get_by_label("All")).not_to_be_checked()


def test_a_tick_does_not_pass_to_another_row_that_has_no_key(site, open_page):
    page = open_page(site.url)
    site.region = '<p><input type="checkbox" name="pk" value="1"></p>'
    page.locator("input[value='1']").check()

    site.region = '<p><input type="checkbox" name="pk" value="2"></p>'

    expect(page.locator("input[value='2']")).not_to_be_checked()


def test_a_hidden_tab_asks_nothing(site, open_page):
    page = open_page()
    page.clock.install()
    page.goto(site.url)
    page.clock.run_for(5_000)
    wait_until(lambda: passed(page) and site.asked, timeout_seconds=20)

    page.evaluate(HIDE, True)
    page.wait_for_load_state("networkidle")
    before = len(site.asked)
    page.clock.run_for(600_000)
    page.evaluate("fetch('/icon')")  # What had been sent before it has arrived.

    assert len(site.asked) == before


def test_a_tab_that_comes_back_asks_at_once_whatever_its_interval(site, open_page):
    site.interval = "60"
    page = open_page(site.url)
    page.evaluate(HIDE, True)
    site.region = table(row("a", "two"))

    page.evaluate(HIDE, False)

    expect(text_of(page, "a")).to_have_text("two")


def test_trouble_keeps_the_figures_dims_them_and_asks_ever_more_rarely(site, open_page):
    open_page.expect_complaint("503|signal timed out")  # The clock may overtake an answer.
    page = open_page()
    page.clock.install()
    page.goto(site.url)
    site.status = 503

    for _ in range(600):
        page.clock.run_for(1_000)
    page.evaluate("fetch('/icon')")

    status = page.get_by_role("status")
    expect(status).to_contain_text("Reconnecting… last updated 10 min. ago")
    expect(page.locator("#jobs-region")).to_have_class("jobs-stale")
    expect(text_of(page, "a")).to_have_text("one")
    assert 5 <= len(site.asked) <= 14

    site.status = 200
    wait_until(lambda: page.keyboard.press("r") or "Updated" in status.inner_text(), timeout_seconds=30)
    expect(page.locator("#jobs-region")).not_to_have_class("jobs-stale")


@pytest.mark.parametrize("status", [302, 401, 403])
def test_who_is_signed_out_is_told_so_and_nothing_is_asked_any_more(site, open_page, status):
    open_page.expect_complaint("401|403")
    page = open_page()
    page.clock.install()
    page.goto(site.url)
    site.status = status

    page.clock.run_for(3_000)
    expect(page.get_by_role("status")).to_have_text("You are signed out.")
    page.clock.run_for(600_000)
    page.evaluate("fetch('/icon')")

    assert len(site.asked) == 1
    expect(text_of(page, "a")).to_have_text("one")


@pytest.mark.parametrize("status", [404, 410])
def test_what_is_gone_is_said_to_be_so_and_asked_for_no_more(site, open_page, status):
    open_page.expect_complaint("404|410")
    page = open_page()
    page.clock.install()
    page.goto(site.url)
    site.status = status

    page.clock.run_for(3_000)
    expect(page.get_by_role("status")).to_have_text("It is gone.")
    page.clock.run_for(600_000)
    page.evaluate("fetch('/icon')")

    assert len(site.asked) == 1
    expect(text_of(page, "a")).to_have_text("one")
    expect(page.locator("#jobs-region")).to_have_class("jobs-stale")


def test_a_page_in_place_of_a_region_is_not_put_into_it(site, open_page):
    page = open_page(site.url)

    site.region = "<!DOCTYPE html><title>Log in</title>"

    expect(page.get_by_role("status")).to_have_text("You are signed out.")
    expect(text_of(page, "a")).to_have_text("one")


def test_with_interval_off_only_the_key_refreshes(site, open_page):
    site.interval = "off"
    page = open_page()
    page.clock.install()
    page.goto(site.url)
    page.clock.run_for(600_000)
    page.evaluate("fetch('/icon')")
    assert not site.asked

    site.region = table(row("a", "two"))
    page.keyboard.press("r")

    expect(text_of(page, "a")).to_have_text("two")


@pytest.mark.parametrize(("chance", "asked"), [(0, 1), (0.999, 0)], ids=["earliest", "latest"])
def test_pages_do_not_all_ask_at_the_same_time(site, open_page, chance, asked):
    site.interval = "60"
    page = open_page()
    page.add_init_script(f"Math.random = () => {chance}")
    page.clock.install()
    page.goto(site.url)

    page.clock.run_for(59_000)
    page.evaluate("fetch('/icon')")

    assert len(site.asked) == asked


def test_a_page_that_is_paused_asks_nothing_until_it_goes_on(site, open_page):
    page = open_page()
    page.clock.install()
    page.goto(site.url)
    page.keyboard.press("p")
    expect(page.get_by_role("status")).to_have_text(re.compile(r"Paused; last updated \d+ sec\. ago"))
    page.clock.run_for(60_000)
    expect(page.get_by_role("status")).to_contain_text("Paused; last updated 1 min. ago")
    page.evaluate("fetch('/icon')")
    assert not site.asked

    site.region = table(row("a", "two"))
    page.keyboard.press("p")

    expect(text_of(page, "a")).to_have_text("two")
    expect(page.get_by_role("status")).to_contain_text("Updated")


def test_a_paused_page_is_refreshed_by_its_key_and_stays_paused(site, open_page):
    page = open_page()
    page.clock.install()
    page.goto(site.url)
    page.keyboard.press("p")
    site.region = table(row("a", "two"))

    page.keyboard.press("r")
    expect(text_of(page, "a")).to_have_text("two")
    page.clock.run_for(60_000)
    page.evaluate("fetch('/icon')")

    expect(page.get_by_role("status")).to_contain_text("Paused")
    assert len(site.asked) == 1


def test_code_is_copied(site, open_page):
    page = open_page(site.url, permissions=["clipboard-read", "clipboard-write"])

    page.get_by_role("button", name="Copy").click()

    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "add.enqueue(1, 2)"


@pytest.mark.parametrize(
    ("motion", "moves"), [("no-preference", {"0s none", "0.2s none"}), ("reduce", {"0s none"})]
)
def test_nothing_moves_for_who_wants_it_so(site, open_page, motion, moves):
    page = open_page(site.url, reduced_motion=motion)

    styles = page.locator("body *").evaluate_all(
        "elements => elements.map(e => getComputedStyle(e))"
        ".map(style => `${style.transitionDuration} ${style.animationName}`)"
    )

    assert set(styles) == moves


def test_relative_times_pass_without_asking(site, open_page):
    site.interval = "off"
    site.region = '<time data-jobs-ago datetime="2026-01-01T00:00:00Z">just now</time>'
    page = open_page()
    page.clock.install(time="2026-01-01T00:00:00Z")
    page.goto(site.url)
    page.clock.pause_at("2026-01-01T00:02:00Z")  # Until here it runs as fast as the test.
    expect(page.locator("time")).to_have_text("2 min. ago")

    page.clock.run_for(120_000)

    expect(page.locator("time")).to_have_text("4 min. ago")
    assert not site.asked


def test_keys_walk_the_rows_tick_them_and_open_them(site, open_page):
    page = open_page(site.url)

    page.keyboard.press("j")
    page.keyboard.press("j")
    expect(page.locator('[data-jobs-key="b"] a')).to_be_focused()
    page.keyboard.press("x")
    expect(page.locator("input[value=b]")).to_be_checked()
    page.keyboard.press("k")
    expect(page.locator('[data-jobs-key="a"] a')).to_be_focused()
    page.keyboard.press("Enter")

    page.wait_for_url("**/job/a")


def test_keys_search_go_and_help(site, open_page):
    page = open_page(site.url)

    page.keyboard.press("?")
    expect(page.locator("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    expect(page.locator("[data-jobs-search]")).to_be_focused()
    page.keyboard.type("gw/?")
    expect(page.locator("[data-jobs-search]")).to_have_value("gw/?")
    expect(page.locator("dialog")).to_be_hidden()
    page.locator("[data-jobs-search]").blur()
    page.keyboard.press("g")
    page.keyboard.press("w")

    page.wait_for_url("**/workers")


@pytest.mark.parametrize(
    ("body", "keys"), [('data-jobs-shortcuts="off"', "?"), ("", "Control+?")], ids=["off", "with Control"]
)
def test_keys_that_are_not_ours_do_nothing(site, open_page, body, keys):
    site.body = body
    page = open_page(site.url)

    page.keyboard.press(keys)
    page.keyboard.press("j")

    expect(page.locator("dialog")).to_be_hidden()
    assert page.locator("tr a:focus").count() == (0 if body else 1)


def test_a_page_with_nothing_of_ours_is_left_alone(site, open_page):
    page = open_page()
    page.clock.install()
    page.route("**/other", lambda route: route.fulfill(body='<script type="module" src="/static/live.js">'))
    page.goto(f"{site.url}/other")

    for key in "/?grjkxwp":
        page.keyboard.press(key)
    page.clock.run_for(60_000)

    assert not site.asked


def test_script_in_the_page_itself_is_refused_and_noticed(site, open_page):
    page = open_page(site.url)
    open_page.expect_complaint("Content Security Policy")

    page.evaluate("document.body.setAttribute('style', 'color: red')")

    wait_until(lambda: passed(page) and open_page.complaints, timeout_seconds=10)
