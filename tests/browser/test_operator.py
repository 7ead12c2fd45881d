"""The operator's way through the admin, in a real browser, on a live site with a real worker."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.db import connections
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.test.utils import override_settings
from django.urls import reverse
from django.utils import timezone
from playwright.sync_api import Browser, Locator, Page, expect
from pytest_django import DjangoDbBlocker
from pytest_django.live_server_helper import LiveServer

from django_jobs import embedded, operations
from django_jobs.models import ErrorGroup, Job, Operation, Worker
from django_jobs.states import CANCELED, FAILED, FINISHED, QUEUED, STARTED
from tests import tasks
from tests.conftest import WorkerProcess, delete_rows, fresh, wait_until, worker_environment

UNWORKED = "kg_extraction"
"""The queue on which no worker listens."""
LIST = "/admin/django_jobs/job/"
MANY = 5_000
LONG = 60_000  # Milliseconds: beside other tests, a machine may stand still for seconds.


def strict_policy(get_response: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """A middleware: all that is not the site's own is refused, and the browser complains of it."""

    def respond(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        response["Content-Security-Policy"] = "default-src 'self'"
        return response

    return respond


@dataclass(frozen=True)
class Site:
    url: str
    cookie: str
    folder: Path


@pytest.fixture(scope="module")
def transactional_db(
    browser: Browser, django_db_setup: None, django_db_blocker: DjangoDbBlocker
) -> Iterator[None]:
    """As pytest-django's, but what a test writes is there until the last one here has ended."""
    with django_db_blocker.unblock():
        yield
        delete_rows()
        connections.close_all()  # Beside Playwright's loop, they are others than before and after it.


@pytest.fixture(scope="module")
def site(
    transactional_db: None,
    valkey_server: embedded.EmbeddedServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """One site and one worker for all tests here, which share them as operators do."""
    folder = tmp_path_factory.mktemp("operator")
    queues = {name: {**queue, "URL": valkey_server.url} for name, queue in settings.RQ_QUEUES.items()}
    middleware = [f"{__name__}.strict_policy", *settings.MIDDLEWARE]
    with override_settings(RQ_QUEUES=queues, MIDDLEWARE=middleware):
        client = Client()
        client.force_login(User.objects.create_superuser("operator"))
        server = LiveServer("localhost")
        worker = WorkerProcess(
            *("rqworker", "file_processing", "vectorization", "--processes=1"),
            environment=worker_environment(valkey_server, folder),
        )
        yield Site(server.url, client.cookies[settings.SESSION_COOKIE_NAME].value, folder)
        server.stop()
        worker.end()


@pytest.fixture
def visit(site: Site, open_page: Callable[..., Page]) -> Callable[..., Page]:
    """Open a page of the admin as somebody who may do everything."""

    def go(url: str, **context: Any) -> Page:
        page = open_page(**context)
        page.set_default_timeout(LONG)
        page.context.route("**/favicon.ico", lambda route: route.fulfill(status=204))
        page.context.add_cookies(
            [{"name": settings.SESSION_COOKIE_NAME, "value": site.cookie, "url": site.url}]
        )
        page.goto(f"{site.url}{url}")
        return page

    return go


@pytest.fixture(params=[True, False], ids=["live", "without JavaScript"])
def is_live(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture
def watch(visit: Callable[..., Page], is_live: bool) -> Callable[[str], Page]:
    """Open a page that renews itself every two seconds, or that runs no script at all."""
    return lambda url: visit(f"{url}?refresh=2", java_script_enabled=is_live)


@pytest.fixture
def appears(is_live: bool) -> Callable[[Locator], None]:
    """Wait until this is to be seen on its page: by itself where that is live, else by reloading it."""

    def wait(locator: Locator) -> None:
        if is_live:
            with stays(locator.page):
                expect(locator).to_be_visible(timeout=LONG)
        else:
            wait_until(lambda: locator.is_visible() or (locator.page.reload() and locator.is_visible()))

    return wait


@contextmanager
def stays(page: Page) -> Iterator[None]:
    """Nobody loads another page meanwhile, or this one again."""
    loads: list[Page] = []

    def note(loaded: Page) -> None:
        loads.append(loaded)

    page.wait_for_load_state()
    page.on("load", note)
    yield
    page.remove_listener("load", note)
    assert not loads


def url_of(job: Job) -> str:
    return reverse("admin:django_jobs_job_change", args=[job.pk])


def figure(page: Page, name: str, value: str) -> Locator:
    """A figure of the strip that is on every page."""
    return page.locator("#jobs-strip dl > div", has_text=name).get_by_text(value, exact=True)


def state(page: Page, word: str) -> Locator:
    """The state of the job whose page this is."""
    return page.locator("#jobs-head .jobs-standing").get_by_text(word, exact=True)


def test_the_dashboard_shows_a_job_move_without_being_reloaded(site, visit):
    page = visit(f"{reverse('admin:django_jobs_dashboard_changelist')}?refresh=2")
    with stays(page):
        job = tasks.tell.enqueue(str(site.folder / "told"))
        expect(figure(page, "Running", "1")).to_be_visible(timeout=LONG)

        (site.folder / "told").touch()
        expect(figure(page, "Running", "0")).to_be_visible(timeout=LONG)

        tasks.fail.enqueue("seen at once")
        expect(page.get_by_text("ValueError: seen at once")).to_be_visible(timeout=LONG)
    assert fresh(job).status == FINISHED


def test_a_failed_job_is_found_by_its_argument_understood_and_tried_again(site, watch, appears, is_live):
    folder = site.folder / f"files {is_live}"
    folder.mkdir()
    jobs = [tasks.read_file.enqueue(number, str(folder)) for number in (41, 42, 43)]
    assert [job.wait(timeout=60).status for job in jobs] == [FAILED] * 3

    page = watch(LIST)
    page.get_by_label("Search jobs").fill("42")
    page.get_by_role("button", name="Search").click()
    page.get_by_role("link", name="args.0:42").click()
    page.get_by_label("Search jobs").fill(f'args.file_id:42 args.folder:"{folder}"')
    page.get_by_role("button", name="Search").click()
    page.locator("#jobs-rows tbody tr").get_by_role("link", name="read_file(42").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("read_file(42")
    expect(page.locator(".jobs-problem")).to_contain_text("FileNotFoundError")
    frames = page.get_by_label("Traceback").locator(".jobs-own")
    expect(frames).to_contain_text("in read_file")
    expect(frames).not_to_contain_text("pathlib")

    (folder / "42.txt").write_text("here it is")
    page.get_by_role("button", name="Requeue", exact=True).click()
    expect(page.get_by_text("1 job requeued.")).to_be_visible()
    appears(state(page, "finished"))
    appears(page.locator("#jobs-result").get_by_text("here it is"))
    appears(page.locator("#jobs-attempts").get_by_text("Attempt 2", exact=True))


def test_a_paused_queue_starts_nothing_until_it_is_resumed(watch, appears):
    page = watch(reverse("admin:django_jobs_queues"))
    row = page.locator("tr", has=page.get_by_role("link", name="vectorization", exact=True))
    row.get_by_role("button", name="Pause vectorization").click()
    expect(row.get_by_text("paused", exact=True)).to_be_visible()

    waiting = tasks.add.using(queue="vectorization").enqueue(1)
    others = [tasks.add.enqueue(number) for number in range(3)]
    assert [job.wait(timeout=60).status for job in others] == [FINISHED] * 3
    assert fresh(waiting).status == QUEUED
    appears(row.locator("[data-label=Queued]").get_by_text("1", exact=True))

    row.get_by_role("button", name="Resume vectorization").click()
    assert waiting.wait(timeout=60).status == FINISHED
    appears(row.locator("[data-label=Queued]").get_by_text("0", exact=True))
    expect(row.get_by_text("paused", exact=True)).to_be_hidden()


def test_an_error_group_of_thousands_is_requeued_in_the_background(site, watch, appears, is_live):
    group = make_group(f"{is_live:032x}", MANY)

    page = watch(reverse("admin:django_jobs_errorgroup_change", args=[group.pk]))
    page.get_by_role("link", name="Requeue its failed jobs (5,000)").click()
    expect(page.get_by_text("5,000 failed jobs of this group will be requeued.")).to_be_visible()
    page.get_by_role("button", name="Requeue").click()

    operation = Operation.objects.get(search__contains=group.pk)
    expect(page).to_have_url(site.url + reverse("admin:django_jobs_operation_change", args=[operation.pk]))
    answered_meanwhile = 0
    while fresh(operation).state in (Operation.State.WAITING, Operation.State.RUNNING):
        assert page.request.get(site.url + LIST).ok
        answered_meanwhile += 1
    assert answered_meanwhile
    facts = page.locator("#jobs-operation dl").first
    appears(facts.locator("dt:text-is('Done') + dd:text-is('5,000')"))
    appears(facts.get_by_text("done", exact=True))
    assert set(Job.objects.filter(subject=group.pk).values_list("status", flat=True)) == {QUEUED}
    assert Job.objects.filter(subject=group.pk).count() == MANY


def test_a_running_job_is_stopped(site, watch, appears):
    job = tasks.tell.enqueue(str(site.folder / "never"))
    wait_until(lambda: fresh(job).status == STARTED)

    page = watch(url_of(job))
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Stop")
    page.get_by_role("button", name="Yes, do it").click()

    appears(state(page, "canceled"))
    assert fresh(job).status == CANCELED


@pytest.fixture(scope="module")
def shown(site: Site) -> dict[str, str]:
    """Each page by its name, with something to be seen on it."""
    (site.folder / "shown").touch()
    finished = tasks.tell.enqueue(str(site.folder / "shown")).wait(timeout=60)
    failed = tasks.fail.enqueue("<b>no such file</b>").wait(timeout=60)
    group = wait_until(lambda: ErrorGroup.objects.filter(sample=failed.pk).first())
    operation = operations.start(Operation.Verb.REQUEUE, "status:failed task:nobody.knows")
    worker = Worker.objects.latest("id")
    urls = {
        "job_not_found": f"{LIST}?q=4711",
        "job_misunderstood": f"{LIST}?q=status%3Alost",
        "job_finished": url_of(finished),
        "job_failed": url_of(failed),
    }
    lists = [f"{model}_changelist" for model in ("dashboard", "job", "attempt", "errorgroup", "operation")]
    pages: dict[str, list[Any]] = {
        **{name: [] for name in (*lists, "queues", "workers", "enqueue")},
        **{name: ["vectorization"] for name in ("queue", "queue_empty", "queue_move")},
        **{name: [group.pk] for name in ("errorgroup_change", "error_requeue")},
        "job_edit": [failed.pk],
        "attempt_change": [failed.attempts.get().pk],
        "operation_change": [operation.pk],
        "worker_stop": [worker.pk],
        "enqueue_task": ["tests.tasks.add"],
    }
    return urls | {name: reverse(f"admin:django_jobs_{name}", args=args) for name, args in pages.items()}


@pytest.mark.parametrize(
    "name",
    [
        *("dashboard_changelist", "job_changelist", "job_not_found", "job_misunderstood", "job_finished"),
        *("job_failed", "job_edit", "attempt_changelist", "attempt_change", "errorgroup_changelist"),
        *("errorgroup_change", "error_requeue", "queues", "queue", "queue_empty", "queue_move", "workers"),
        *("worker_stop", "operation_changelist", "operation_change", "enqueue", "enqueue_task"),
    ],
)
def test_a_page_can_be_read_by_everybody_on_any_screen_under_a_strict_policy(shown, visit, name):
    page = visit(shown[name])

    faults = page.evaluate(FAULTS)
    page.set_viewport_size({"width": 390, "height": 800})
    assert faults + page.evaluate(TOO_WIDE) == []


FAULTS = """() => {
    const faults = [];
    const told = (what, element) => faults.push(`${what}: ${element.outerHTML.slice(0, 150)}`);
    const each = (selector, isRight, what) =>
        document.querySelectorAll(selector).forEach((element) => isRight(element) || told(what, element));
    const count = (selector, wanted) => {
        const found = document.querySelectorAll(selector).length;
        if (found !== wanted) faults.push(`${found} of ${selector} instead of ${wanted}`);
    };
    const named = (element) => element.ariaLabel || element.title
        || document.getElementById(element.getAttribute("aria-labelledby"))?.textContent.trim();
    const drawn = (element) => named(element) || element.querySelector(":scope > title")
        || element.closest("[aria-hidden=true]") || element.parentElement.closest("svg");
    const controls = "input:not([type=hidden]), select, textarea";
    count("h1", 1);
    count("main, [role=main]", 1);
    each("html", (page) => page.lang && document.title, "no language or title");
    each(controls, (element) => element.labels.length || named(element), "no label");
    each("a[href], button:not([hidden]), summary",
        (element) => element.textContent.trim() || named(element), "no name");
    each("main svg", drawn, "no name");
    each("img", (element) => element.hasAttribute("alt"), "no name");
    each("nav, .jobs-page section:not(.jobs-panel)", named, "no name");
    each(".jobs-state, .jobs-verdict", (element) => element.textContent.trim(), "state without a word");
    each(".jobs-page th", (element) => element.scope, "no scope");
    const fits = ({scrollWidth, clientWidth, scrollHeight, clientHeight}) =>
        scrollWidth <= clientWidth && scrollHeight <= clientHeight;
    each("main pre", (element) => element.tabIndex >= 0 || fits(element), "scrolls with no keys");
    each("[id]", ({id}) => document.querySelectorAll(`[id="${CSS.escape(id)}"]`).length === 1, "id twice");
    if (document.querySelector(".jobs-page")) count("[role=status], [aria-live]", 1);
    return faults;
}"""
"""What is wrong with a page for those who do not see it, or see no colours."""

TOO_WIDE = """() => document.documentElement.scrollWidth <= innerWidth ? [] : [
    document.documentElement.scrollWidth,
    ...[...document.querySelectorAll("main *")]
        .filter((element) => element.getBoundingClientRect().right > innerWidth)
        .slice(0, 3).map((element) => element.outerHTML.slice(0, 150)),
]"""


def test_keys_lead_to_the_search_other_pages_and_help(visit):
    page = visit(LIST)
    search = page.get_by_label("Search jobs")

    page.keyboard.press("/")
    expect(search).to_be_focused()
    search.blur()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.type("gq")
    page.wait_for_url("**/queues/")
    page.keyboard.type("gj")
    page.wait_for_url(f"**{LIST}")


def test_what_has_the_focus_is_marked(visit):
    page = visit(LIST)
    page.keyboard.press("Tab")  # From now on, the focus is moved by keys.

    for selector in (".jobs-navigation a", "#jobs-q", ".jobs-search .jobs-button", ".jobs-chip", "summary"):
        page.locator(selector).first.focus()
        style = page.locator(selector).first.evaluate("e => getComputedStyle(e).outlineStyle")
        assert style != "none", selector


@pytest.mark.parametrize(("width", "height"), [(1280, 720), (800, 720), (390, 640)])
def test_the_actions_do_not_cover_the_row_that_has_the_focus(visit, width, height):
    make_group(f"{width:032x}", 30)
    page = visit(f"{LIST}?q=fingerprint:{width:032x}", viewport={"width": width, "height": height})
    page.keyboard.press("j")
    page.keyboard.press("x")
    expect(page.locator("tbody input:checked")).to_have_count(1)

    for _row in range(29):
        page.keyboard.press("j")
        assert page.evaluate(IS_IN_SIGHT)


IS_IN_SIGHT = """() => {
    const {x, top, bottom} = document.activeElement.getBoundingClientRect();
    const row = document.activeElement.closest("tbody tr");
    return [top + 1, bottom - 1].every((y) => row.contains(document.elementFromPoint(x + 1, y)));
}"""


def make_group(fingerprint: str, count: int) -> ErrorGroup:
    now = timezone.now()
    values = {"task": "tests.tasks.fail", "queue": UNWORKED, "status": FAILED, "error_type": "ValueError"}
    Job.objects.bulk_create(
        [
            Job(**values, args=[str(number)], fingerprint=fingerprint, subject=fingerprint, finished_at=now)
            for number in range(count)
        ],
        batch_size=500,
    )
    return ErrorGroup.objects.create(
        fingerprint=fingerprint,
        error_type="ValueError",
        frame="tests/tasks.py in fail",
        message="broken",
        count=count,
        first_seen=now - timedelta(hours=1),
        last_seen=now,
        tasks={"tests.tasks.fail": count},
    )
