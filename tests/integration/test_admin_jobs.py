"""The list of jobs in the admin: what it shows, how it is searched, and what can be done from it."""

import re
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from django_jobs.models import Attempt, ErrorGroup, Job, Operation
from django_jobs.states import CANCELED, FAILED, FINISHED, QUEUED, SCHEDULED, STARTED
from tests.conftest import fresh, make_worker

JOBS = "admin:django_jobs_job_changelist"
JOB = "admin:django_jobs_job_change"
ROWS = "admin:django_jobs_job_rows"
ACT = "admin:django_jobs_job_act"
ATTEMPTS = "admin:django_jobs_attempt_changelist"
HOSTILE = """<script>alert(1)</script>"'&{{ x }}{% y %}"""

VERBS = {
    "requeue": ("requeue_job", FAILED, QUEUED),
    "run_now": ("run_job", SCHEDULED, QUEUED),
    "cancel": ("cancel_job", QUEUED, CANCELED),
    "stop": ("stop_job", STARTED, STARTED),
    "mark_failed": ("fail_job", QUEUED, FAILED),
    "delete": ("delete_job", FINISHED, None),
}
"""For each: its permission, a state it is for, and the state after it."""
ASKED = ["cancel", "stop", "mark_failed", "delete"]
EVERYTHING = [
    "view_job",
    "view_job_arguments",
    "bulk_job",
    *(permission for permission, _, _ in VERBS.values()),
]

pytestmark = pytest.mark.usefixtures("valkey")


@pytest.fixture
def read_only(settings):
    settings.DJANGO_JOBS = {**settings.DJANGO_JOBS, "READ_ONLY": True}


@pytest.fixture
def only_own(settings):
    settings.DJANGO_JOBS = {**settings.DJANGO_JOBS, "VISIBLE_JOBS": "tests.conftest.own_jobs"}


def act(client: Client, verb: str, *jobs: Job, **data):
    return client.post(
        reverse(ACT), {"verb": verb, "job": [str(job.pk) for job in jobs], **data}, follow=True
    )


def job_for(verb: str, job_factory) -> Job:
    due = timezone.now() + timezone.timedelta(hours=1) if verb == "run_now" else None
    return job_factory(status=VERBS[verb][1], scheduled_for=due)


def was_done(verb: str, job: Job) -> bool:
    if verb == "delete":
        return not Job.objects.filter(pk=job.pk).exists()
    if verb == "stop":
        return fresh(job).is_canceling
    return fresh(job).status == VERBS[verb][2]


def listed(page) -> list[str]:
    return re.findall(r'<tr data-jobs-key="([\w-]+)">', page.text)


def test_list_shows_the_call_and_how_far_it_is(client_who_may, job_factory):
    client = client_who_may("view_job", "view_job_arguments")
    job_factory(args=[1], kwargs={"right": 2}, progress=40, subject="file:42", status=STARTED)

    page = client.get(reverse(JOBS)).text

    assert "add(1, right=2)" in page
    assert "40 %" in page
    assert "file:42" in page
    assert "1 of 1" in page
    assert "w1" in page


def test_list_tells_what_kind_of_error_a_job_failed_with(client_who_may, job_factory):
    job_factory(status=FAILED, error_type="shop.errors.NoStock", error_message="none left")

    assert ">NoStock<" in client_who_may("view_job").get(reverse(JOBS)).text


def test_nothing_is_offered_for_a_list_of_nothing(client_who_may, job_factory):
    client = client_who_may(*EVERYTHING)
    job_factory()

    found, none = (client.get(reverse(JOBS), {"q": f"status:{status}"}).text for status in (QUEUED, FAILED))

    assert 'name="verb"' in found
    assert 'name="verb"' not in none


def test_list_of_no_jobs_is_a_page(client_who_may):
    client = client_who_may("view_job")

    assert "There are no jobs yet." in client.get(reverse(JOBS)).text


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"status": STARTED, "cancel_requested_at": timezone.now()}, "canceling"),
        ({"status": STARTED, "worker": None, "elsewhere_until": timezone.now()}, "goes on elsewhere"),
        ({"status": SCHEDULED, "attempt": 2, "scheduled_for": timezone.now()}, "will retry"),
        ({"status": FAILED, "error_type": "WorkerLost"}, "interrupted"),
        ({"status": QUEUED, "observed_id": "abc"}, "observed only"),
    ],
)
def test_states_that_follow_from_other_columns_are_told(client_who_may, job_factory, values, told):
    client = client_who_may("view_job")
    job_factory(**values)

    assert told in client.get(reverse(JOBS)).text


def test_arguments_are_shown_to_those_only_who_may_see_them(client_who_may, job_factory):
    client = client_who_may("view_job")
    job = job_factory(args=["confidential"], kwargs={"right": "private"})

    for page in (reverse(JOBS), reverse(JOB, args=[job.pk])):
        text = client.get(page).text
        assert "add(…)" in text
        assert "confidential" not in text
        assert "private" not in text


def test_searching_arguments_takes_the_permission_to_see_them(client_who_may, job_factory):
    client = client_who_may("view_job")
    job = job_factory(kwargs={"left": "private"})

    page = client.get(reverse(JOBS), {"q": "args.left:private"})

    assert "takes the permission to see them" in page.text
    assert str(job.pk) not in page.text


def test_list_and_rows_cost_the_same_number_of_queries_for_few_jobs_and_for_many(
    client_who_may, job_factory, django_assert_max_num_queries
):
    client = client_who_may(*EVERYTHING)
    job_factory()
    Job.objects.bulk_create(
        Job(task="tests.tasks.add", queue="file_processing", status=status, subject="file:42")
        for status in [QUEUED, FAILED, FINISHED, CANCELED] * 100
    )

    for search in ("", "status:failed", "subject:file:42", "error:x queue:file_processing", "worker:w1"):
        with django_assert_max_num_queries(20):
            client.get(reverse(JOBS), {"q": search})
        with django_assert_max_num_queries(20):
            client.get(reverse(ROWS), {"q": search})


def test_list_reads_no_big_columns_and_never_counts_skips_or_compares_all(
    client_who_may, job_factory, django_assert_max_num_queries
):
    client = client_who_may(*EVERYTHING)
    for _ in range(3):
        job_factory()

    with django_assert_max_num_queries(20) as queries:
        client.get(reverse(ROWS), {"q": "queue:file_processing"})

    sql = " ".join(query["sql"] for query in queries.captured_queries)
    assert '"traceback"' not in sql
    assert '"result"' not in sql
    assert "OFFSET" not in sql.replace("LIMIT 1 OFFSET", "")  # The edge of what is looked through.
    assert "DISTINCT" not in sql


LISTS = {
    JOBS: [],
    ATTEMPTS: [],
    "admin:django_jobs_dashboard_changelist": [],
    "admin:django_jobs_queue": ["file_5Fprocessing"],
    "admin:django_jobs_workers": [],
    "admin:django_jobs_errorgroup_change": ["f" * 32],
}


@pytest.mark.parametrize("name", LISTS)
def test_no_list_reads_long_arguments_for_the_few_characters_it_shows(client_who_may, job_factory, name):
    client = client_who_may(*EVERYTHING, "view_attempt", "view_queue", "view_worker", "view_errorgroup")
    now, worker = timezone.now(), make_worker()
    ErrorGroup.objects.create(fingerprint="f" * 32, error_type="E", first_seen=now, last_seen=now)
    for argument in ("short", "long" * 3000):
        ended(job_factory(args=[argument], status=FAILED, fingerprint="f" * 32))
        job_factory(args=[argument], status=STARTED, worker=worker)

    page = client.get(reverse(name, args=LISTS[name])).text

    assert "add(&#x27;short&#x27;)" in page
    assert "add(…)" in page
    assert "longlong" not in page


@pytest.mark.parametrize("page", [JOBS, ROWS, ATTEMPTS])
def test_lists_are_closed_to_staff_without_permission(client_who_may, page):
    client = client_who_may()

    assert client.get(reverse(page)).status_code == 403


@pytest.mark.parametrize("page", [JOBS, ROWS, ACT])
def test_pages_send_those_who_are_not_logged_in_to_the_login(client, db, page):
    assert client.get(reverse(page)).status_code == 302


@pytest.mark.parametrize("term", ["id", "file:42", "tests.tasks.add", "status:queued -task:tests.tasks.fail"])
def test_search_finds_by_id_subject_and_task(client_who_may, job_factory, term):
    client = client_who_may("view_job")
    sought = job_factory(subject="file:42")
    job_factory(subject="file:43", task="tests.tasks.fail")

    page = client.get(reverse(JOBS), {"q": str(sought.pk) if term == "id" else term})

    assert listed(page) == [str(sought.pk)]


@pytest.mark.parametrize(("codenames", "is_offered"), [(["view_job_arguments"], True), ([], False)])
def test_a_word_that_finds_nothing_is_offered_as_an_argument_to_who_may_see_those(
    client_who_may, job_factory, codenames, is_offered
):
    client = client_who_may("view_job", *codenames)
    job_factory(args=[42])

    page = client.get(reverse(JOBS), {"q": "42"})

    assert listed(page) == []
    assert ("?q=args.0%3A42" in page.text) is is_offered


def test_a_search_that_is_not_understood_is_kept_and_told_in_place(client_who_may, job_factory):
    client = client_who_may("view_job")
    job_factory()

    page = client.get(reverse(JOBS), {"q": 'quue:mail "x'})

    assert page.status_code == 200
    assert "did you mean" in page.text or "quotation" in page.text
    assert 'value="quue:mail &quot;x"' in page.text
    assert listed(page) == []


def test_the_form_of_filters_composes_a_search(client_who_may, job_factory):
    client = client_who_may("view_job")

    answer = client.get(
        reverse(JOBS),
        {
            "q": "queue:old -queue:mail x status:failed",
            "queue": "file_processing",
            "tag": "two words",
            "task": "",
        },
    )

    query = parse_qs(urlsplit(answer.url).query)
    assert query == {"q": ['-queue:mail x status:failed queue:file_processing tag:"two words"']}


def test_the_form_of_filters_shows_what_the_search_asks_for(client_who_may, job_factory):
    client = client_who_may("view_job")

    page = client.get(reverse(JOBS), {"q": "queue:vectorization since:2h"}).text

    assert "<option selected>vectorization</option>" in page
    assert 'name="since" value="2h"' in page


def test_filters_stay_where_the_search_beside_them_is_not_understood(client_who_may):
    client = client_who_may("view_job")

    page = client.get(reverse(JOBS), {"q": '"x', "tag": "import"}).text

    assert "quotation" in page
    assert 'name="tag" value="import"' in page


def test_chips_tell_how_many_are_in_each_state_and_keep_the_rest_of_the_search(client_who_may, job_factory):
    client = client_who_may("view_job")
    for status in (FAILED, FAILED, QUEUED):
        job_factory(status=status, subject="file:42")

    page = client.get(reverse(JOBS), {"q": "subject:file:42 status:failed"}).text

    assert re.search(r'aria-current="true">failed <span class="jobs-count">2</span>', page)
    assert "?q=subject%3Afile%3A42+status%3Aqueued" in page


def test_pages_are_walked_back_and_forth(client_who_may, job_factory):
    client = client_who_may("view_job")
    jobs = Job.objects.bulk_create(Job(task="tests.tasks.add", queue="x") for _ in range(120))
    ids = sorted((str(job.pk) for job in jobs), reverse=True)

    def follow(page, rel):
        link = re.search(rf'<a href="([^"]+)" rel="{rel}">', page.text)
        return client.get(link[1].replace("&amp;", "&"))

    first = client.get(reverse(JOBS))
    second = follow(first, "next")
    third = follow(second, "next")

    assert [*listed(first), *listed(second), *listed(third)] == ids
    assert 'rel="next"' not in third.text
    assert listed(follow(third, "prev")) == listed(second)


def test_a_search_that_looks_through_much_tells_how_far_it_came(client_who_may, job_factory, monkeypatch):
    monkeypatch.setattr("django_jobs.searching.pages.MOST_LOOKED_THROUGH", 50)
    client = client_who_may("view_job")
    old = job_factory(tags=["import"])
    Job.objects.bulk_create(Job(task="tests.tasks.add", queue="x") for _ in range(60))

    page = client.get(reverse(JOBS), {"q": "tag:import"})
    further = re.search(r'<a href="([^"]+)" rel="next">Search older</a>', page.text)

    assert "Searched back to" in page.text
    assert listed(client.get(further[1].replace("&amp;", "&"))) == [str(old.pk)]


def test_rows_are_not_sent_twice(client_who_may, job_factory):
    client = client_who_may("view_job")
    job_factory(status=FINISHED)

    first = client.get(reverse(ROWS))
    again = client.get(reverse(ROWS), headers={"If-None-Match": first["ETag"]})

    assert first.status_code == 200
    assert (again.status_code, again.content) == (304, b"")


def test_the_list_holds_what_its_region_sends(client_who_may, job_factory):
    client = client_who_may(*EVERYTHING)
    job_factory()

    page, region = (
        client.get(reverse(JOBS), {"q": "status:queued"}),
        client.get(reverse(ROWS), {"q": "status:queued"}),
    )

    assert region.text in page.text


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_is_done_to_the_ticked_jobs_and_told(client_who_may, job_factory, verb):
    client = client_who_may("view_job", VERBS[verb][0])
    ticked, other = job_for(verb, job_factory), job_for(verb, job_factory)

    page = act(client, verb, ticked, confirmed="yes", q="status:failed", reason="because")

    assert was_done(verb, ticked)
    assert not was_done(verb, other)
    assert re.search(r'class="success">1 job ', page.text)
    assert page.context["q"] == "status:failed"
    if verb != "delete":
        assert ticked.events.get().by.username == "op"


@pytest.mark.parametrize("verb", ASKED)
def test_what_cannot_be_undone_is_asked_first(client_who_may, job_factory, verb):
    client = client_who_may("view_job", "view_job_arguments", VERBS[verb][0])
    job = job_for(verb, job_factory)
    Job.objects.filter(pk=job.pk).update(args=["ada"])

    page = act(client, verb, job).text

    assert not was_done(verb, job)
    assert "add(&#x27;ada&#x27;)" in page
    assert str(job.pk) in page
    assert "1 job" in page
    assert 'name="confirmed" value="yes"' in page


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_is_neither_offered_to_nor_done_for_who_lacks_its_permission_alone(
    client_who_may, job_factory, verb
):
    client = client_who_may(*(each for each in EVERYTHING if each != VERBS[verb][0]))
    job = job_for(verb, job_factory)

    for page in (reverse(JOBS), reverse(JOB, args=[job.pk])):
        assert f'value="{verb}"' not in client.get(page).text
    assert act(client, verb, job, confirmed="yes").status_code == 403
    assert act(client, verb, scope="all", q="status:failed", confirmed="yes").status_code == 403
    assert not was_done(verb, job)
    assert not Operation.objects.exists()


@pytest.mark.parametrize("verb", VERBS)
def test_nothing_is_offered_or_done_where_it_is_read_only(client_who_may, job_factory, read_only, verb):
    client = client_who_may(*EVERYTHING)
    job = job_for(verb, job_factory)

    for page in (reverse(JOBS), reverse(JOB, args=[job.pk])):
        assert f'value="{verb}"' not in client.get(page).text
    assert act(client, verb, job, confirmed="yes").status_code == 403
    assert act(client, verb, scope="all", q="status:failed", confirmed="yes").status_code == 403
    assert not was_done(verb, job)


def test_who_may_do_all_but_look_may_do_nothing(client_who_may, job_factory):
    client = client_who_may(*(each for each in EVERYTHING if each != "view_job"))
    job = job_factory(status=FAILED)

    assert act(client, "requeue", job).status_code == 403
    assert fresh(job).status == FAILED


def test_acting_takes_a_post_with_a_token(client_who_may, job_factory):
    job = job_factory(status=FAILED)
    client = client_who_may("view_job", "requeue_job")
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(User.objects.get(username="op"))

    assert client.get(reverse(ACT), {"verb": "requeue", "job": job.pk}).url == reverse(JOBS)
    assert strict.post(reverse(ACT), {"verb": "requeue", "job": job.pk}).status_code == 403
    assert fresh(job).status == FAILED


@pytest.mark.parametrize(
    "data", [{}, {"verb": "explode"}, {"verb": "requeue", "job": "x"}, {"verb": "requeue", "job": ""}]
)
def test_what_no_form_sends_does_nothing(client_who_may, data):
    client = client_who_may(*EVERYTHING)

    page = client.post(reverse(ACT), data, follow=True)

    assert "nothing that can be done here" in page.text


def test_acting_on_nothing_says_to_tick_first(client_who_may):
    client = client_who_may("view_job", "requeue_job")

    assert "tick the jobs" in act(client, "requeue").text


@pytest.mark.parametrize("verb", ["requeue", "cancel"])
@pytest.mark.parametrize("side", ["before", "after"])
def test_who_acts_on_a_further_page_stays_there(client_who_may, job_factory, verb, side):
    client = client_who_may(*EVERYTHING)
    job, other = job_for(verb, job_factory), job_factory()
    place = {side: str(other.pk)}
    form = client.get(reverse(JOBS), place).text
    assert f'<input type="hidden" name="{side}" value="{other.pk}">' in form

    page = act(client, verb, job, q="", **place)
    if verb in ASKED:
        assert page.context["back"].endswith(urlencode(place))
        assert f'<input type="hidden" name="{side}" value="{other.pk}">' in page.text
        page = act(client, verb, job, confirmed="yes", q="", **place)

    assert page.redirect_chain[-1][0] == f"{reverse(JOBS)}?{urlencode(place)}"
    assert was_done(verb, job)


def test_jobs_in_no_state_for_it_are_left_alone_and_told(client_who_may, job_factory):
    client = client_who_may("view_job", "requeue_job")
    failed, running = job_factory(status=FAILED), job_factory(status=STARTED)

    page = act(client, "requeue", failed, running).text

    assert fresh(failed).status == QUEUED
    assert "1 job requeued." in page
    assert "1 left alone: is started." in page


def test_where_no_ticked_job_is_in_a_state_for_it_nothing_is_asked(client_who_may, job_factory):
    jobs = [job_factory(status=FINISHED), job_factory(status=FAILED)]

    page = act(client_who_may(*EVERYTHING), "mark_failed", *jobs).text

    assert "None of the 2 is in a state for it" in page
    assert 'name="reason"' not in page
    assert "Yes, do it" not in page


def test_a_question_offers_no_choice_that_would_lose_it(client_who_may, job_factory):
    client = client_who_may(*EVERYTHING)

    page = act(client, "delete", job_factory()).text

    assert "Yes, do it" in page
    assert "refresh=" in client.get(reverse(JOBS)).text
    assert "refresh=" not in page
    assert "shortcuts=" not in page


def test_a_job_that_runs_is_not_told_to_be_canceled_when_it_was_only_asked_to_stop(
    client_who_may, job_factory
):
    client = client_who_may("view_job", "cancel_job", "stop_job")
    waiting, running = job_factory(), job_factory(status=STARTED)

    page = act(client, "cancel", waiting, running, confirmed="yes").text

    assert "2 jobs canceled or asked to stop." in page
    assert fresh(running).is_canceling


def test_a_reason_is_kept_with_a_job_that_is_marked_as_failed(client_who_may, job_factory):
    client = client_who_may("view_job", "fail_job")
    job = job_factory()

    act(client, "mark_failed", job, confirmed="yes", reason="the file is gone")

    assert fresh(job).error_message == "the file is gone"


def test_all_that_match_are_asked_about_with_their_number_and_search(client_who_may, job_factory):
    client = client_who_may("view_job", "bulk_job", "requeue_job")
    for _ in range(7):
        job_factory(status=FAILED, subject="file:42")
    job_factory(subject="file:42")

    page = act(client, "requeue", scope="all", q="status:failed subject:file:42").text

    assert "Requeue all jobs that match?" in page
    assert "status:failed subject:file:42" in page
    assert re.search(r"failed</span> <span class=\"jobs-count\">7</span>", page)
    assert "there are more" in page
    assert not Operation.objects.exists()


@pytest.mark.parametrize("verb", VERBS)
def test_an_operation_begins_for_all_that_match_once_it_is_confirmed(client_who_may, job_factory, verb):
    client = client_who_may("view_job", "bulk_job", VERBS[verb][0])
    job = job_for(verb, job_factory)

    data = {
        "verb": verb,
        "scope": "all",
        "q": f"status:{job.status}",
        "confirmed": "yes",
        "reason": "because",
    }
    answer = client.post(reverse(ACT), data)

    operation = Operation.objects.get()
    assert (operation.verb, operation.search, operation.by.username) == (verb, f"status:{job.status}", "op")
    assert operation.options.get("reason") == ("because" if verb == "mark_failed" else None)
    assert answer.url == reverse("admin:django_jobs_operation_change", args=[operation.pk])
    assert not was_done(verb, job)


def test_acting_on_all_that_match_takes_a_permission_of_its_own(client_who_may, job_factory):
    client = client_who_may(*(each for each in EVERYTHING if each != "bulk_job"))

    assert "all that match" not in client.get(reverse(JOBS), {"q": "status:failed"}).text
    assert act(client, "requeue", scope="all", q="status:failed", confirmed="yes").status_code == 403
    assert not Operation.objects.exists()


@pytest.mark.parametrize("search", ["", "  ", "status:broken", "args.x:1"])
def test_all_that_match_no_search_or_one_that_may_not_be_made_are_left_alone(client_who_may, search):
    client = client_who_may("view_job", "bulk_job", "delete_job")

    page = act(client, "delete", scope="all", q=search, confirmed="yes")

    assert 'class="error"' in page.text
    assert not Operation.objects.exists()


def test_the_jobs_of_others_are_neither_listed_nor_counted_nor_steered(client_who_may, job_factory, only_own):
    client = client_who_may(*EVERYTHING)
    own = job_factory(status=FAILED, owner=User.objects.get(username="op"))
    others = job_factory(status=FAILED, owner=User.objects.create_user("ada"))

    page = client.get(reverse(JOBS))
    act(client, "requeue", own, others)
    asked = act(client, "delete", others).text

    assert listed(page) == [str(own.pk)]
    assert '<span class="jobs-count">2</span>' not in page.text
    assert fresh(own).status == QUEUED
    assert fresh(others).status == FAILED
    assert str(others.pk) not in re.sub(r'<input type="hidden"[^>]*>', "", asked)


def test_hostile_values_are_escaped_in_the_list(client_who_may, job_factory):
    client = client_who_may(*EVERYTHING)
    job = job_factory(
        task=f"a.{HOSTILE}",
        args=[HOSTILE],
        kwargs={HOSTILE: HOSTILE},
        queue=HOSTILE,
        subject=HOSTILE,
        engine="rq",
        status=STARTED,
    )
    job.worker.name = HOSTILE
    job.worker.save()

    for page in (
        client.get(reverse(JOBS)).text,
        client.get(reverse(JOBS), {"q": HOSTILE}).text,
        client.get(reverse(JOBS), {"q": f"queue:{HOSTILE}"}).text,
        act(client, "stop", job, q=HOSTILE).text,
        act(client, "stop", scope="all", q=f'queue:"{HOSTILE}"').text,
    ):
        assert "<script>alert" not in page
        assert "&lt;script&gt;alert" in page


@pytest.mark.parametrize("query", [{}, {"q": "queue:x"}, {"q": '"'}])
def test_pages_hold_no_inline_script_style_or_handler(client_who_may, job_factory, query):
    client = client_who_may(*EVERYTHING)
    job = job_factory(status=STARTED, progress=30)

    pages = [
        client.get(reverse(JOBS), query).text,
        act(client, "stop", job).text,
        act(client, "requeue", scope="all", q="status:failed").text,
    ]

    for page in pages:
        assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=", page)


def test_attempts_are_listed_with_their_task(client_who_may, job_factory):
    client = client_who_may("view_attempt", "view_job", "view_job_arguments")
    job = job_factory(status=FINISHED)
    ended(job)

    page = client.get(reverse(ATTEMPTS)).text

    assert "add()" in page
    assert "Finished" in page


def test_attempts_show_values_to_those_only_who_may_see_them(client_who_may, job_factory):
    client = client_who_may("view_attempt", "view_job")
    job = job_factory(status=FAILED, args=["confidential"])
    attempt = ended(job, log="confidential", traceback="confidential", outcome=Attempt.Outcome.FAILED)

    for page in (
        client.get(reverse(ATTEMPTS)),
        client.get(reverse("admin:django_jobs_attempt_change", args=[attempt.pk])),
    ):
        assert page.status_code == 200
        assert "confidential" not in page.text
    assert client.get(reverse(ATTEMPTS), {"log__contains": "confidential"}).status_code in (302, 400)


def test_the_list_of_attempts_reads_no_big_columns_of_them_or_of_their_jobs(client_who_may, job_factory):
    client = client_who_may("view_attempt", "view_job", "view_job_arguments")
    ended(job_factory(status=FAILED, args=[4242]), outcome=FAILED, error_type="NoStock")

    with CaptureQueriesContext(connection) as queries:
        page = client.get(reverse(ATTEMPTS)).text

    sql = " ".join(query["sql"] for query in queries.captured_queries)
    assert "add(4242)" in page
    assert "NoStock" in page
    for column in ("traceback", "log", "result", "meta"):
        assert f'"{column}"' not in sql


@pytest.mark.parametrize("is_theirs", [True, False])
def test_the_list_of_attempts_looks_through_the_newest_and_says_so(
    client_who_may, job_factory, only_own, monkeypatch, is_theirs
):
    monkeypatch.setattr("django_jobs.admin.attempts.MOST_LOOKED_THROUGH", 2)
    client = client_who_may("view_attempt", "view_job")
    owner = User.objects.get()
    oldest, *_ = [job_factory(status=FINISHED, owner=owner if is_theirs else None) for _ in range(2)]
    ended(oldest)
    told = "Only the newest are listed here"
    for of in (owner if is_theirs else None, None):
        assert told not in client.get(reverse(ATTEMPTS)).text
        ended(job_factory(status=FINISHED, owner=of))

    newest, of_job = (client.get(reverse(ATTEMPTS), asked) for asked in ({}, {"job__id__exact": oldest.pk}))

    assert told in newest.text
    assert f"{int(is_theirs)} attempt" in newest.text
    assert told not in of_job.text
    assert f"{int(is_theirs)} attempt" in of_job.text


def test_attempts_are_not_looked_for_by_their_outcomes_which_have_no_index(client_who_may):
    client = client_who_may("view_attempt", "view_job")

    answer = client.get(reverse(ATTEMPTS), {"outcome__exact": "lost"})

    assert answer.status_code in (302, 400)


@pytest.mark.parametrize("order", ["2", "-3", "4.2"])
def test_attempts_are_sorted_by_no_column(client_who_may, job_factory, order):
    client = client_who_may("view_attempt", "view_job", "view_worker")
    ended(job_factory(status=FINISHED))

    with CaptureQueriesContext(connection) as queries:
        assert client.get(reverse(ATTEMPTS), {"o": order}).status_code == 200

    sorted_by = [query["sql"].rpartition("ORDER BY")[2] for query in queries if "attempt" in query["sql"]]
    assert not re.findall("outcome|number|worker", " ".join(sorted_by))


def test_attempts_of_the_jobs_of_others_are_not_there(client_who_may, job_factory, only_own):
    client = client_who_may("view_attempt", "view_job")
    attempt = ended(job_factory(status=FINISHED), worker_name="the worker of others")

    assert "0 attempts" in client.get(reverse(ATTEMPTS)).text
    page = client.get(reverse("admin:django_jobs_attempt_change", args=[attempt.pk]), follow=True)
    assert "the worker of others" not in page.text


def ended(job: Job, **values) -> Attempt:
    values = {"outcome": Attempt.Outcome.FINISHED, "worker_name": "w1", **values}
    return job.attempts.create(number=1, claim_id=job.pk, started_at=job.created_at, **values)
