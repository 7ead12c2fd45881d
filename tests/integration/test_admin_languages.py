"""The pages in the languages that are shipped."""

import gettext
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest
from django.db.models.functions import Now
from django.urls import reverse
from django.utils import timezone, translation

import django_jobs
from django_jobs import monitor, relay
from django_jobs.admin import refusals
from django_jobs.engines import all_engines
from django_jobs.models import Attempt, ErrorGroup, FigureDelta, Operation, Queue
from django_jobs.states import FAILED, QUEUED, SCHEDULED, STARTED, Status
from tests.conftest import make_worker

LOCALE = Path(django_jobs.__file__).parent / "locale"
HEADINGS = {
    "zh-hans": {"仪表盘", "作业", "队列", "工作进程"},
    "zh-hant": {"儀表板", "工作", "佇列", "工作程序"},
}
PAGES = [
    "dashboard_changelist",
    "job_changelist",
    "queues",
    "workers",
    "errorgroup_changelist",
    "operation_changelist",
]

pytestmark = pytest.mark.usefixtures("valkey")


class Texts(HTMLParser):
    """What is read on a page, and heard: not words of the search, and the raw columns."""

    def __init__(self, page):
        super().__init__()
        self.found, self.html, self.tag = set(), {}, ""
        self.feed(page.partition("jobs-raw")[0])

    def handle_starttag(self, tag, attributes):
        self.tag = tag
        if tag == "html":
            self.html = dict(attributes)
        named = {"aria-label", "title", "placeholder", "data-label"}
        self.found |= {value for name, value in attributes if name in named}

    def handle_data(self, text):
        if self.tag not in ("option", "code"):
            self.found.add(text.strip())


def untranslated(texts, language):
    with (LOCALE / translation.to_locale(language) / "LC_MESSAGES" / "django.mo").open("rb") as file:
        catalogue = gettext.GNUTranslations(file)._catalog
    return {
        text
        for text, translated in catalogue.items()
        if text and isinstance(text, str) and text != translated and text.rpartition("\4")[2] in texts.found
    }


@pytest.fixture
def busy_day(job_factory):
    """Rows for each part of the pages."""
    worker = make_worker()
    make_worker(name="gone", leased_until=Now() - timedelta(minutes=1))
    Queue.objects.create(name="kg_extraction", paused=True)
    job_factory(queue="kg_extraction", status=QUEUED)
    job_factory(status=SCHEDULED, scheduled_for=timezone.now() + timedelta(hours=1))
    job_factory(status=STARTED, worker=worker, started_at=timezone.now())
    failed = job_factory(status=FAILED, error_type="ValueError", error_message="no", args=[1])
    Attempt.objects.create(
        job=failed, number=1, claim_id=failed.id, outcome="failed", started_at=timezone.now(), log="tried"
    )
    Operation.objects.create(verb=Operation.Verb.REQUEUE, search="status:failed")
    seen = dict.fromkeys(("first_seen", "last_seen"), timezone.now())
    ErrorGroup.objects.create(fingerprint="f" * 32, error_type="ValueError", **seen)
    FigureDelta.objects.create(queue="default", task="tests.tasks.add", outcome="failed", amount=9)
    return failed


@pytest.mark.parametrize("language", HEADINGS)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_all_in_the_language_of_its_reader(admin_client, busy_day, name, language):
    with translation.override(language):
        page = Texts(admin_client.get(reverse(f"admin:django_jobs_{name}")).text)

    assert (page.html["lang"], page.html["dir"]) == (language, "ltr")
    assert HEADINGS[language] <= page.found
    assert untranslated(page, language) == set()


@pytest.mark.parametrize("language", HEADINGS)
def test_a_jobs_page_is_all_in_the_language_of_its_reader(admin_client, busy_day, language):
    with translation.override(language):
        address = reverse("admin:django_jobs_job_change", args=[busy_day.pk])
        page = Texts(admin_client.get(address).text)

    assert page.html["lang"] == language
    assert untranslated(page, language) == set()


@pytest.mark.parametrize("name", ["attempt_changelist", "attempt_change"])
def test_djangos_own_pages_name_attempts_in_the_language_of_their_reader(admin_client, busy_day, name):
    of = [busy_day.attempts.get().pk] if name == "attempt_change" else []
    with translation.override("zh-hans"):
        page = Texts(admin_client.get(reverse(f"admin:django_jobs_{name}", args=of)).text)

    assert untranslated(page, "zh-hans") == set()


def test_a_search_that_is_not_understood_is_told_in_the_language_of_its_reader(admin_client):
    with translation.override("zh-hans"):
        page = admin_client.get(reverse("admin:django_jobs_job_changelist"), {"q": "status:faild"})

    assert "未知的状态" in page.text
    assert "Unknown status" not in page.text


def test_a_refusal_is_told_in_the_language_of_who_asked(admin_client, job_factory):
    job = job_factory(status=STARTED)
    refused = {"is started by now": 1, "unique key held": 2}
    operation = Operation.objects.create(verb="requeue", refused=refused)

    def asked(**sent):
        sent = {"verb": "requeue", "job": job.pk, **sent}
        return admin_client.post(reverse("admin:django_jobs_job_act"), sent, follow=True).text

    with translation.override("zh-hans"):
        one, several = asked(**{"from": "page"}), asked()
        page = admin_client.get(reverse("admin:django_jobs_operation_change", args=[operation.pk])).text

    assert "未执行任何操作" in one
    assert "状态为“运行中”" in one
    assert "状态为“运行中”" in several
    assert "现在状态为“运行中”" in page
    assert "其唯一键已被占用" in page


def test_what_is_wrong_with_a_queue_is_told_in_the_language_of_its_reader(job_factory):
    job_factory(queue="lost")
    [address] = {address for engine in all_engines() for address in engine.servers()}
    relay.let_rest(address)

    for language, lost, away in (
        ("en", "RQ_QUEUES does not declare", "has not answered lately"),
        ("zh-hans", "RQ_QUEUES 没有声明", "最近没有应答"),
    ):
        with translation.override(language):
            assert lost in monitor.queues(["lost"])[0].error
            assert away in monitor.queues(["file_processing"])[0].error


def test_each_reason_of_a_refusal_is_translated():
    of_states = [f"is {state}{end}" for state in Status for end in refusals._OF_STATES]

    with translation.override("zh-hans"):
        for reason in [*refusals._REASONS, *of_states, "not supported by rq"]:
            assert refusals.reason_text(reason) != reason

    assert refusals.reason_text("is started by now") == "is started by now"
    assert refusals.reason_text("<b>why") == "<b>why"
