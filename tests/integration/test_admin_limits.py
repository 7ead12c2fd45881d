"""What the admin tells to users who may see little: some jobs only, or jobs without what belongs to them."""

import re
from datetime import timedelta
from itertools import product

import pytest
from django.contrib import admin
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth.models import Permission, User
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import PermissionDenied
from django.db.models.functions import Now
from django.urls import URLResolver, reverse
from django.utils import timezone

from django_jobs import figures, operations
from django_jobs.admin.seeing import shown_search
from django_jobs.models import Attempt, ErrorGroup, FigureDelta, Job, Operation, Queue, Worker
from django_jobs.states import FAILED, QUEUED, STARTED
from tests import tasks
from tests.conftest import make_worker

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]

GROUP = "f" * 32
JOBS = "admin:django_jobs_job_changelist"
WORD = "zebra"
QUERIES = (
    *("", "?q=status:failed", f"?q=fingerprint:{GROUP}", "?q=error:zeb", "?q=task:zeb*", "?q=-queue:mail"),
    *("?o=1.-2", "?_to_field=fingerprint", "?_to_field=id", "?_popup=1", "?all=", "?_facets=True"),
    *("?worker_name__startswith=zeb", "?job__task__startswith=zeb", "?job__owner__username__startswith=zeb"),
    *("?state=ignored", "?range=24h", "?queue=zeb", "?refresh=5"),
    "?app_label=django_jobs&model_name=attempt&field_name=job&term=zeb",
)
SEARCHES = [
    *(f"{qualifier}:{WORD}" for qualifier in ("args.name", "error", "owner", "queue", "subject", "tag")),
    *(WORD, f"task:{WORD}.tasks.run", f"fingerprint:{GROUP}", "status:failed", "status:started"),
]
VERBS = ("requeue", "run_now", "cancel", "stop", "mark_failed", "delete")


@pytest.fixture
def limited(settings, client):
    """A user with every permission who may see own jobs only."""
    settings.DJANGO_JOBS = {**settings.DJANGO_JOBS, "VISIBLE_JOBS": "tests.conftest.own_jobs"}
    user = User.objects.create_user("mine", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(content_type__app_label="django_jobs"))
    client.force_login(user)
    return user


@pytest.fixture
def theirs(db):
    """Jobs of somebody else, and all that is told of them anywhere, with one word in each name and text."""
    owner = User.objects.create_user(WORD, is_superuser=True, is_staff=True)
    worker = make_worker(name=WORD, hostname=WORD, queues=[WORD])
    told = {
        "owner": owner,
        "queue": WORD,
        "task": f"{WORD}.tasks.run",
        "tags": [WORD],
        "subject": WORD,
        "description": WORD,
        "args": [WORD],
        "kwargs": {"name": WORD},
    }
    error = {"error_type": f"{WORD}.Error", "error_message": WORD, "traceback": WORD}
    jobs = [
        Job.objects.create(**told, **error, status=FAILED, fingerprint=GROUP, finished_at=Now()),
        Job.objects.create(**told, status=STARTED, worker=worker, started_at=Now()),
        Job.objects.create(**told, status=QUEUED, unique_key=WORD),
    ]
    attempt = jobs[0].attempts.create(
        **error, number=1, claim_id=GROUP, worker_name=WORD, log=WORD, started_at=Now(), outcome=FAILED
    )
    now = timezone.now()
    group = ErrorGroup.objects.create(
        fingerprint=GROUP,
        error_type=f"{WORD}.Error",
        message=WORD,
        frame=WORD,
        tasks={f"{WORD}.tasks.run": 1},
        workers={WORD: 1},
        count=1,
        sample=jobs[0].pk,
        first_seen=now,
        last_seen=now,
    )
    operation = Operation.objects.create(
        verb="requeue", search="status:failed args.name:zebra", by=owner, options={"by": WORD}
    )
    Queue.objects.create(name=WORD, paused=True)
    FigureDelta.objects.create(
        queue=WORD, task=f"{WORD}.tasks.run", outcome=FAILED, amount=1, fingerprint=GROUP, at=Now()
    )
    figures.fold()
    for row in (group, operation):
        LogEntry.objects.create(
            user=owner,
            content_type=ContentType.objects.get_for_model(row),
            object_id=row.pk,
            object_repr=str(row),
            action_flag=CHANGE,
            change_message=WORD,
        )
    return {
        "job": [str(job.pk) for job in jobs],
        "attempt": [str(attempt.pk)],
        "group": [GROUP],
        "operation": [str(operation.pk)],
        "queue": [WORD],
        "worker": [str(worker.pk)],
    }


def addresses(theirs):
    """Every address of the admin that has to do with us: those of lists, and those about what is theirs."""
    values = [value for listed in theirs.values() for value in listed]
    ids = [value for value in values if "-" in value]
    lists = {reverse("admin:index"), reverse("admin:app_list", args=["django_jobs"]), "/admin/autocomplete/"}
    others = set()

    def walk(patterns, prefix):
        for pattern in patterns:
            address = f"{prefix}{pattern.pattern}"
            if isinstance(pattern, URLResolver):
                walk(pattern.url_patterns, address)
            elif "django_jobs" in address and "<" in address:
                fitting = ids if "<uuid:" in address else values
                others.update(re.sub("<.+>", value, address) for value in fitting)
            elif "django_jobs" in address:
                lists.add(address)

    walk(admin.site.urls[0], "/admin/")
    return sorted(lists), sorted(others)


def everything():
    models = (Job, Attempt, ErrorGroup, Operation, Queue, Worker)
    return [list(model.objects.order_by("pk").values()) for model in models]


def test_who_may_see_some_jobs_only_is_told_of_these_alone_on_every_page(limited, theirs, client):
    lists, others = addresses(theirs)
    assert len(lists) > 15  # Or this test looks at nothing.
    assert len(others) > 100

    for address, query in [*product(lists, QUERIES), *product(others, [""])]:
        answer = client.get(f"{address}{query}", follow=True)
        shown = answer.text.replace(address, "").replace(f"ID \u201c{WORD}\u201d", "")
        assert answer.status_code < 500, f"{address}{query}"
        assert WORD not in shown, f"{address}{query}"


@pytest.mark.parametrize("search", SEARCHES)
def test_who_may_see_some_jobs_only_finds_no_others_by_what_is_known_of_them(limited, theirs, client, search):
    assert client.get(reverse(JOBS), {"q": search}).context["rows"] == []


def test_who_may_see_some_jobs_only_changes_nothing_that_is_of_others(limited, theirs, client):
    before = everything()
    sent = {"confirmed": "yes", "job": theirs["job"], "reason": "why", "post": "yes"}

    for address in addresses(theirs)[1]:
        client.post(address, sent)
    for verb in VERBS:
        client.post(reverse("admin:django_jobs_job_act"), {**sent, "verb": verb})

    assert everything() == before


def test_who_may_see_some_jobs_only_sees_the_own_ones_and_that_all_are_not_told(limited, client, job_factory):
    job = job_factory(status=FAILED, error_type="Own", owner=limited)
    job.attempts.create(number=1, claim_id=job.pk, worker_name="w1", started_at=Now(), outcome=FAILED)

    page = client.get(reverse("admin:django_jobs_dashboard_changelist")).text

    assert "Own" in page
    assert "what is told of all of them is not shown" in page
    assert "Workers" not in page
    assert "1 attempt" in client.get(reverse("admin:django_jobs_attempt_changelist")).text
    for name in ("queues", "workers", "errorgroup_changelist"):
        assert reverse(f"admin:django_jobs_{name}") not in page
        assert client.get(reverse(f"admin:django_jobs_{name}")).status_code == 403


def test_who_enqueues_a_job_that_he_may_not_see_is_not_led_to_it(limited, client):
    address = reverse("admin:django_jobs_enqueue_task", args=[tasks.add.name])
    sent = {"call-left": "1", "call-right": "2", "options-queue": "file_processing", "enqueue": "yes"}

    answer = client.post(address, {**sent, "options-max_retries": "0"}, follow=True)

    assert Job.objects.get().owner is None
    assert answer.status_code == 200
    assert "Enqueued." in answer.text


def test_a_hook_that_limits_nothing_leaves_all_to_be_seen(settings, client, theirs):
    settings.DJANGO_JOBS = {**settings.DJANGO_JOBS, "VISIBLE_JOBS": f"{__name__}.all_jobs"}
    client.force_login(User.objects.get())

    assert client.get(reverse("admin:django_jobs_errorgroup_changelist")).status_code == 200


def all_jobs(user, jobs):
    return jobs


SHOWN = ["job_changelist", "job_change", "attempt_changelist", "attempt_change", "dashboard_changelist"]


@pytest.mark.parametrize("may", [False, True])
@pytest.mark.parametrize("name", [*SHOWN, "errorgroup_changelist", "errorgroup_change"])
def test_workers_are_named_to_those_only_who_may_see_them(client_who_may, theirs_by_worker, name, may):
    permissions = {"view_job", "view_attempt", "view_errorgroup", "view_job_arguments"}
    client = client_who_may(*permissions, *(["view_worker"] if may else []))
    arguments = {"job_change": "job", "attempt_change": "attempt", "errorgroup_change": "group"}
    key = arguments.get(name)

    page = client.get(reverse(f"admin:django_jobs_{name}", args=[theirs_by_worker[key]] if key else []))

    assert page.status_code == 200
    assert ("w-zebra" in page.text) == may


@pytest.fixture
def theirs_by_worker(db, job_factory):
    """A worker that went silent with a job, which it had tried before."""
    gone = timezone.now() - timedelta(minutes=5)
    worker = make_worker(name="w-zebra", hostname="w-zebra", leased_until=gone, seen_at=gone)
    job = job_factory(status=STARTED, worker=worker)
    attempt = job.attempts.create(
        number=1, claim_id=job.pk, worker_name="w-zebra", started_at=gone, outcome=FAILED
    )
    group = ErrorGroup.objects.create(
        fingerprint=GROUP, error_type="E", workers={"w-zebra": 1}, first_seen=gone, last_seen=gone
    )
    return {"job": job.pk, "attempt": attempt.pk, "group": group.pk}


def test_workers_are_searched_for_by_those_only_who_may_see_them(client_who_may, theirs_by_worker):
    client = client_who_may("view_job", "bulk_job", "requeue_job")

    page = client.get(reverse(JOBS), {"q": "worker:w-zebra"})

    assert "Searching for workers takes the permission to see them." in page.text
    assert "rows" not in page.context
    with pytest.raises(PermissionDenied, match="view_worker"):
        operations.start("requeue", "worker:w-zebra", by=User.objects.get())


@pytest.mark.parametrize("name", ["attempt_changelist", "attempt_change"])
def test_attempts_are_closed_to_those_who_may_not_see_jobs(client_who_may, theirs_by_worker, name):
    client = client_who_may("view_attempt", "view_worker")
    arguments = [theirs_by_worker["attempt"]] if name == "attempt_change" else []

    assert client.get(reverse(f"admin:django_jobs_{name}", args=arguments)).status_code == 403


@pytest.mark.parametrize("may", [False, True])
def test_what_others_look_for_in_arguments_is_told_to_those_only_who_may_see_them(client_who_may, may):
    client = client_who_may("view_operation", "view_job", *(["view_job_arguments"] if may else []))
    operation = Operation.objects.create(
        verb="requeue", search="status:failed -args.name:zebra error:password=hunter2"
    )
    page = client.get(reverse("admin:django_jobs_operation_change", args=[operation.pk])).text

    for text in (page, client.get(reverse("admin:django_jobs_operation_changelist")).text):
        assert "status:failed -args.name:" in text
        assert ("zebra" in text) == may
        assert "hunter2" not in text
    assert "zebra" not in str(operation)


def test_who_started_an_operation_reads_the_own_search_whole(client_who_may):
    client = client_who_may("view_operation", "view_job")
    operation = Operation.objects.create(verb="requeue", search="args.name:zebra", by=User.objects.get())

    assert "zebra" in client.get(reverse("admin:django_jobs_operation_change", args=[operation.pk])).text


def test_a_search_that_is_not_understood_any_more_is_masked():
    assert shown_search('args.name:"zebra', User.objects.create_user("op")) == "********"
