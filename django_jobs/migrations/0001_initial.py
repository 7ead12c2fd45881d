# Rewritten freely until the first release; then migrations are only added.

import django.core.validators
import django.db.models.deletion
import django.db.models.functions.datetime
import uuid6
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="Census",
            fields=[
                (
                    "start",
                    models.DateTimeField(
                        help_text="When that minute began.", primary_key=True, serialize=False
                    ),
                ),
                ("running", models.PositiveIntegerField()),
                ("waiting", models.PositiveIntegerField()),
                ("workers", models.PositiveIntegerField()),
            ],
            options={
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="FigureDelta",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("queue", models.CharField(max_length=100)),
                ("task", models.CharField(max_length=255)),
                ("worker_name", models.CharField(blank=True, default="", max_length=255)),
                (
                    "outcome",
                    models.CharField(
                        choices=[
                            ("finished", "Finished"),
                            ("failed", "Failed"),
                            ("retried", "Retried"),
                            ("elsewhere", "Elsewhere"),
                            ("canceled", "Canceled"),
                            ("lost", "Lost"),
                        ],
                        max_length=10,
                    ),
                ),
                ("fingerprint", models.CharField(blank=True, default="", max_length=32)),
                (
                    "sample",
                    models.UUIDField(help_text="One of the jobs, where the attempts failed.", null=True),
                ),
                ("wait_bucket", models.PositiveSmallIntegerField(null=True)),
                ("run_bucket", models.PositiveSmallIntegerField(null=True)),
                ("amount", models.IntegerField()),
                ("wait_seconds", models.FloatField(default=0, help_text="Of all of them together.")),
                ("run_seconds", models.FloatField(default=0, help_text="Of all of them together.")),
            ],
            options={
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="Installation",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid6.uuid7, editable=False, primary_key=True, serialize=False),
                ),
                ("singleton", models.BooleanField(default=True, editable=False, unique=True)),
                (
                    "namespace",
                    models.CharField(
                        blank=True, default="", help_text="What its keys in Redis begin with.", max_length=255
                    ),
                ),
            ],
            options={
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="Lease",
            fields=[
                ("name", models.CharField(max_length=100, primary_key=True, serialize=False)),
                ("holder", models.CharField(max_length=255)),
                ("expires_at", models.DateTimeField()),
            ],
            options={
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="Queue",
            fields=[
                ("name", models.CharField(max_length=100, primary_key=True, serialize=False)),
                ("paused", models.BooleanField(default=False)),
            ],
            options={
                "ordering": ["name"],
                "permissions": [("manage_queue", "Can pause, resume and empty a queue")],
                "default_permissions": ("view",),
            },
        ),
        migrations.CreateModel(
            name="Tally",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("queue", models.CharField(max_length=100)),
                ("status", models.CharField(max_length=10)),
                ("amount", models.IntegerField()),
            ],
            options={
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="ErrorGroup",
            fields=[
                ("fingerprint", models.CharField(max_length=32, primary_key=True, serialize=False)),
                ("error_type", models.CharField(max_length=255)),
                ("frame", models.CharField(blank=True, default="", max_length=255)),
                ("message", models.TextField(blank=True, default="", help_text="Of the newest one.")),
                (
                    "state",
                    models.CharField(
                        choices=[("open", "open"), ("resolved", "resolved"), ("ignored", "ignored")],
                        default="open",
                        max_length=10,
                    ),
                ),
                ("ignored_until", models.DateTimeField(help_text="Empty: for ever.", null=True)),
                (
                    "reopened_at",
                    models.DateTimeField(help_text="When it came back after it was resolved.", null=True),
                ),
                ("count", models.PositiveBigIntegerField(default=0, help_text="Attempts that failed so.")),
                ("first_seen", models.DateTimeField()),
                ("last_seen", models.DateTimeField()),
                ("tasks", models.JSONField(default=dict, help_text="How many attempts of which tasks.")),
                ("workers", models.JSONField(default=dict, help_text="How many attempts by which workers.")),
                ("sample", models.UUIDField(help_text="The newest job that failed so.", null=True)),
                ("changed_at", models.DateTimeField(null=True)),
                (
                    "changed_by",
                    models.ForeignKey(
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "verbose_name": "error group",
                "verbose_name_plural": "error groups",
                "ordering": ["-last_seen"],
                "permissions": [("resolve_errorgroup", "Can resolve, ignore and reopen groups of errors")],
                "default_permissions": ("view",),
                "base_manager_name": "objects",
            },
        ),
        migrations.CreateModel(
            name="ErrorCount",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("start", models.DateTimeField()),
                ("count", models.PositiveIntegerField(default=0)),
                (
                    "group",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="counts",
                        to="django_jobs.errorgroup",
                    ),
                ),
            ],
            options={
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="Job",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid6.uuid7, editable=False, primary_key=True, serialize=False),
                ),
                (
                    "task",
                    models.CharField(
                        help_text="Its name: the function's path, or one given.", max_length=255
                    ),
                ),
                ("description", models.CharField(blank=True, default="", max_length=255)),
                ("engine", models.CharField(default="rq", max_length=32)),
                ("queue", models.CharField(max_length=100)),
                (
                    "at_front",
                    models.BooleanField(default=False, help_text="Goes before the others of its queue."),
                ),
                ("args", models.JSONField(blank=True, default=list)),
                ("kwargs", models.JSONField(blank=True, default=dict)),
                ("timeout_seconds", models.PositiveIntegerField(help_text="Empty for no limit.", null=True)),
                (
                    "idempotent",
                    models.BooleanField(default=False, help_text="Running it again does no harm."),
                ),
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("queued", "Queued"),
                            ("scheduled", "Scheduled"),
                            ("deferred", "Deferred"),
                            ("started", "Started"),
                            ("finished", "Finished"),
                            ("failed", "Failed"),
                            ("canceled", "Canceled"),
                        ],
                        default="queued",
                        max_length=10,
                    ),
                ),
                (
                    "attempt",
                    models.PositiveIntegerField(
                        default=1, help_text="The attempt awaited or running, from 1."
                    ),
                ),
                ("max_attempts", models.PositiveIntegerField(default=1)),
                (
                    "retry_intervals",
                    models.JSONField(blank=True, default=list, help_text="Seconds before each retry."),
                ),
                (
                    "retry_jitter",
                    models.FloatField(
                        default=0,
                        help_text="Part of an interval, from 0 to 1, by which it is changed at random.",
                    ),
                ),
                (
                    "losses",
                    models.PositiveIntegerField(
                        default=0, help_text="Attempts cut because their worker died."
                    ),
                ),
                ("cancel_requested_at", models.DateTimeField(null=True)),
                (
                    "delivery",
                    models.PositiveIntegerField(default=0, help_text="Counts the deliveries of one attempt."),
                ),
                ("delivered_at", models.DateTimeField(null=True)),
                ("delivered_epoch", models.CharField(blank=True, default="", max_length=64)),
                ("claim_id", models.UUIDField(editable=False, null=True)),
                (
                    "elsewhere_until",
                    models.DateTimeField(
                        help_text="Its work goes on outside; lost if not reported by then.", null=True
                    ),
                ),
                (
                    "observed_id",
                    models.CharField(
                        blank=True,
                        default="",
                        help_text="Its id in the engine, for a job that other code enqueued there.",
                        max_length=255,
                    ),
                ),
                ("keep_result_seconds", models.FloatField(help_text="Empty: as long as the row.", null=True)),
                ("result_expires_at", models.DateTimeField(null=True)),
                ("result", models.JSONField(null=True)),
                (
                    "result_error",
                    models.TextField(blank=True, default="", help_text="Why the result is not stored."),
                ),
                ("error_type", models.CharField(blank=True, default="", max_length=255)),
                ("error_message", models.TextField(blank=True, default="")),
                ("traceback", models.TextField(blank=True, default="")),
                (
                    "fingerprint",
                    models.CharField(
                        blank=True,
                        default="",
                        help_text="Of the error; alike for errors of one kind.",
                        max_length=32,
                    ),
                ),
                (
                    "progress",
                    models.PositiveSmallIntegerField(
                        default=0, validators=[django.core.validators.MaxValueValidator(100)]
                    ),
                ),
                ("progress_message", models.TextField(blank=True, default="")),
                ("stage", models.CharField(blank=True, default="", max_length=100)),
                ("stages", models.JSONField(blank=True, default=dict)),
                (
                    "stage_names",
                    models.JSONField(
                        blank=True,
                        default=list,
                        help_text="The stages in their order, which PostgreSQL's JSON does not keep.",
                    ),
                ),
                (
                    "live_log",
                    models.TextField(
                        blank=True,
                        default="",
                        help_text="The end of what the attempt that runs has logged so far.",
                    ),
                ),
                (
                    "subject",
                    models.CharField(
                        blank=True, default="", help_text="For example file:42.", max_length=255
                    ),
                ),
                ("tags", models.JSONField(blank=True, default=list)),
                ("meta", models.JSONField(blank=True, default=dict)),
                ("unique_key", models.CharField(max_length=255, null=True)),
                (
                    "created_at",
                    models.DateTimeField(
                        db_default=django.db.models.functions.datetime.Now(), editable=False
                    ),
                ),
                (
                    "scheduled_for",
                    models.DateTimeField(help_text="When the awaited attempt is due.", null=True),
                ),
                (
                    "queued_at",
                    models.DateTimeField(
                        db_default=django.db.models.functions.datetime.Now(), editable=False, null=True
                    ),
                ),
                ("started_at", models.DateTimeField(null=True)),
                ("finished_at", models.DateTimeField(null=True)),
                (
                    "owner",
                    models.ForeignKey(
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "requeued_from",
                    models.ForeignKey(
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="requeued_to",
                        to="django_jobs.job",
                    ),
                ),
                (
                    "parent",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        help_text="The job that enqueued this one.",
                        null=True,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="children",
                        to="django_jobs.job",
                    ),
                ),
            ],
            options={
                "verbose_name": "job",
                "verbose_name_plural": "jobs",
                "ordering": ["-id"],
                "permissions": [
                    ("view_job_arguments", "Can see arguments, results and logs of jobs"),
                    ("enqueue_job", "Can enqueue jobs"),
                    ("edit_job_arguments", "Can requeue a job with other arguments"),
                    ("bulk_job", "Can act on all jobs that match"),
                    ("cancel_job", "Can cancel job"),
                    ("stop_job", "Can stop a running job"),
                    ("requeue_job", "Can requeue job"),
                    ("run_job", "Can run a job before its time"),
                    ("fail_job", "Can mark a job as failed"),
                    ("move_job", "Can move a job to another queue"),
                    ("report_job", "Can report progress and end of a job from elsewhere"),
                ],
                "default_permissions": ("view", "delete"),
                "base_manager_name": "objects",
            },
        ),
        migrations.CreateModel(
            name="Attempt",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("number", models.PositiveIntegerField(verbose_name="number")),
                ("claim_id", models.UUIDField(editable=False)),
                ("worker_name", models.CharField(max_length=255, verbose_name="worker")),
                ("started_at", models.DateTimeField()),
                ("finished_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                (
                    "outcome",
                    models.CharField(
                        choices=[
                            ("finished", "Finished"),
                            ("failed", "Failed"),
                            ("retried", "Retried"),
                            ("elsewhere", "Elsewhere"),
                            ("canceled", "Canceled"),
                            ("lost", "Lost"),
                        ],
                        max_length=10,
                        verbose_name="outcome",
                    ),
                ),
                ("error_type", models.CharField(blank=True, default="", max_length=255)),
                ("error_message", models.TextField(blank=True, default="")),
                ("traceback", models.TextField(blank=True, default="")),
                ("log", models.TextField(blank=True, default="")),
                (
                    "job",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="attempts",
                        to="django_jobs.job",
                    ),
                ),
            ],
            options={
                "verbose_name": "attempt",
                "verbose_name_plural": "attempts",
                "ordering": ["job", "number"],
                "default_permissions": ("view",),
            },
        ),
        migrations.CreateModel(
            name="JobEvent",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("enqueued", "Enqueued"),
                            ("cancel_requested", "Cancel Requested"),
                            ("canceled", "Canceled"),
                            ("requeued", "Requeued"),
                            ("run_now", "Run Now"),
                            ("marked_failed", "Marked Failed"),
                            ("moved", "Moved"),
                            ("reported", "Reported"),
                            ("worker_lost", "Worker Lost"),
                            ("redelivered", "Redelivered"),
                            ("late_report", "Late Report"),
                        ],
                        max_length=20,
                    ),
                ),
                ("attempt", models.PositiveIntegerField()),
                ("message", models.TextField(blank=True, default="")),
                ("at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                (
                    "by",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "job",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="events",
                        to="django_jobs.job",
                    ),
                ),
            ],
            options={
                "ordering": ["id"],
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="Operation",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid6.uuid7, editable=False, primary_key=True, serialize=False),
                ),
                (
                    "verb",
                    models.CharField(
                        choices=[
                            ("requeue", "requeue"),
                            ("cancel", "cancel"),
                            ("stop", "stop"),
                            ("run_now", "run now"),
                            ("mark_failed", "mark as failed"),
                            ("move", "move to another queue"),
                            ("delete", "delete"),
                        ],
                        max_length=20,
                    ),
                ),
                (
                    "options",
                    models.JSONField(blank=True, default=dict, help_text="Such as the queue to move to."),
                ),
                (
                    "search",
                    models.TextField(
                        blank=True, default="", help_text="Which jobs, as one searches for them."
                    ),
                ),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("waiting", "waiting"),
                            ("running", "running"),
                            ("done", "done"),
                            ("aborted", "aborted"),
                            ("failed", "failed"),
                        ],
                        default="waiting",
                        max_length=10,
                    ),
                ),
                (
                    "matched",
                    models.PositiveIntegerField(
                        help_text="How many jobs matched at the start, counted up to a limit.", null=True
                    ),
                ),
                (
                    "newest",
                    models.UUIDField(
                        help_text="The newest job that matched; later ones are left alone.", null=True
                    ),
                ),
                ("cursor", models.UUIDField(help_text="The last job that was dealt with.", null=True)),
                ("done", models.PositiveIntegerField(default=0)),
                ("refused", models.JSONField(default=dict, help_text="How many were left alone, and why.")),
                ("error", models.TextField(blank=True, default="")),
                ("abort_requested_at", models.DateTimeField(null=True)),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("started_at", models.DateTimeField(null=True)),
                ("finished_at", models.DateTimeField(null=True)),
                (
                    "by",
                    models.ForeignKey(
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "verbose_name": "operation",
                "verbose_name_plural": "operations",
                "ordering": ["-id"],
                "default_permissions": ("view",),
                "permissions": [("abort_operation", "Can abort an operation that somebody else started")],
                "base_manager_name": "objects",
            },
        ),
        migrations.CreateModel(
            name="QueueEvent",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("queue", models.CharField(max_length=100)),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("paused", "Paused"),
                            ("resumed", "Resumed"),
                            ("emptied", "Emptied"),
                            ("job_deleted", "Job Deleted"),
                        ],
                        max_length=20,
                    ),
                ),
                ("message", models.TextField(blank=True, default="")),
                ("at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                (
                    "by",
                    models.ForeignKey(
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "ordering": ["id"],
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="Rollup",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "period",
                    models.CharField(
                        choices=[("minute", "Minute"), ("hour", "Hour"), ("day", "Day")], max_length=6
                    ),
                ),
                ("start", models.DateTimeField()),
                ("queue", models.CharField(blank=True, default="", max_length=100)),
                ("task", models.CharField(blank=True, default="", max_length=255)),
                ("finished", models.PositiveIntegerField(default=0)),
                (
                    "failed",
                    models.PositiveIntegerField(default=0, help_text="With those whose worker was lost."),
                ),
                ("lost", models.PositiveIntegerField(default=0)),
                (
                    "retried",
                    models.PositiveIntegerField(default=0, help_text="Asked for another attempt themselves."),
                ),
                ("canceled", models.PositiveIntegerField(default=0)),
                ("wait_seconds", models.FloatField(default=0)),
                ("run_seconds", models.FloatField(default=0)),
                ("waits", models.JSONField(default=list)),
                ("runs", models.JSONField(default=list)),
            ],
            options={
                "default_permissions": (),
                "indexes": [models.Index(fields=["period", "start"], name="django_jobs_rollup_start")],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("period", "queue", "task", "start"), name="django_jobs_one_rollup"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="Dashboard",
            fields=[],
            options={
                "verbose_name": "dashboard",
                "verbose_name_plural": "Dashboard",
                "proxy": True,
                "default_permissions": (),
                "indexes": [],
                "constraints": [],
            },
            bases=("django_jobs.rollup",),
        ),
        migrations.CreateModel(
            name="Worker",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid6.uuid7, editable=False, primary_key=True, serialize=False),
                ),
                ("name", models.CharField(max_length=255)),
                ("engine", models.CharField(max_length=32)),
                ("hostname", models.CharField(max_length=255)),
                ("pid", models.PositiveIntegerField()),
                (
                    "process",
                    models.CharField(
                        blank=True, default="", help_text="Tells processes of one pid apart.", max_length=50
                    ),
                ),
                ("queues", models.JSONField(default=list)),
                (
                    "state",
                    models.CharField(
                        choices=[("idle", "Idle"), ("busy", "Busy"), ("quiet", "Quiet")],
                        default="idle",
                        max_length=10,
                    ),
                ),
                ("started_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                (
                    "seen_at",
                    models.DateTimeField(
                        db_default=django.db.models.functions.datetime.Now(),
                        help_text="When it last renewed its lease.",
                    ),
                ),
                ("leased_until", models.DateTimeField(help_text="Counts as lost after this.")),
                (
                    "finished_count",
                    models.PositiveIntegerField(default=0, help_text="Attempts that finished here."),
                ),
                (
                    "failed_count",
                    models.PositiveIntegerField(default=0, help_text="Attempts that failed here."),
                ),
                (
                    "busy_seconds",
                    models.FloatField(default=0, help_text="Time spent on attempts that have ended."),
                ),
                (
                    "order",
                    models.CharField(
                        blank=True,
                        choices=[("", "None"), ("quiet", "Quiet"), ("stop", "Stop")],
                        default="",
                        max_length=10,
                    ),
                ),
                (
                    "memory_bytes",
                    models.PositiveBigIntegerField(help_text="Of all its processes.", null=True),
                ),
                (
                    "cpu_percent",
                    models.FloatField(help_text="Of one core, since its last sign of life.", null=True),
                ),
                (
                    "slots",
                    models.PositiveIntegerField(
                        default=1,
                        help_text="How many jobs it runs at a time, not counting those that it awaits.",
                    ),
                ),
            ],
            options={
                "ordering": ["name"],
                "permissions": [("manage_worker", "Can quiet and stop a worker")],
                "default_permissions": ("view",),
                "base_manager_name": "objects",
                "indexes": [models.Index(fields=["leased_until"], name="django_jobs_worker_lease")],
            },
        ),
        migrations.AddField(
            model_name="job",
            name="worker",
            field=models.ForeignKey(
                db_constraint=False,
                db_index=False,
                null=True,
                on_delete=django.db.models.deletion.DO_NOTHING,
                related_name="jobs",
                to="django_jobs.worker",
            ),
        ),
        migrations.AddIndex(
            model_name="errorgroup",
            index=models.Index(fields=["state", "last_seen"], name="django_jobs_errors_state"),
        ),
        migrations.AddIndex(
            model_name="errorcount",
            index=models.Index(fields=["start"], name="django_jobs_error_count_start"),
        ),
        migrations.AddConstraint(
            model_name="errorcount",
            constraint=models.UniqueConstraint(fields=("group", "start"), name="django_jobs_one_error_count"),
        ),
        migrations.AddConstraint(
            model_name="attempt",
            constraint=models.UniqueConstraint(
                fields=("job", "number"), name="django_jobs_one_attempt_per_number"
            ),
        ),
        migrations.AddIndex(
            model_name="operation",
            index=models.Index(
                condition=models.Q(("finished_at__isnull", True)),
                fields=["id"],
                name="django_jobs_operations_open",
            ),
        ),
        migrations.AddIndex(
            model_name="queueevent",
            index=models.Index(fields=["queue", "kind", "id"], name="django_jobs_queue_events"),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                condition=models.Q(("status", "scheduled")),
                fields=["scheduled_for", "id"],
                name="django_jobs_due",
            ),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                condition=models.Q(("status", "queued")),
                fields=["queue", "delivered_epoch", "id"],
                name="django_jobs_undelivered",
            ),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                condition=models.Q(("status", "started")), fields=["worker"], name="django_jobs_running"
            ),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                condition=models.Q(("status", "queued")),
                fields=["queue", "queued_at"],
                name="django_jobs_waiting",
            ),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(fields=["status", "id"], name="django_jobs_status"),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(fields=["queue", "status", "id"], name="django_jobs_queue_status"),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(fields=["task", "status", "id"], name="django_jobs_task_status"),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                condition=models.Q(("subject", ""), _negated=True),
                fields=["subject", "id"],
                name="django_jobs_subject",
            ),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                condition=models.Q(("owner__isnull", False)), fields=["owner", "id"], name="django_jobs_owner"
            ),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                condition=models.Q(("requeued_from__isnull", False)),
                fields=["requeued_from"],
                name="django_jobs_requeued_from",
            ),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                condition=models.Q(("parent__isnull", False)),
                fields=["parent", "id"],
                name="django_jobs_parent",
            ),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                condition=models.Q(("status", "failed")),
                fields=["status", "finished_at"],
                name="django_jobs_failed",
            ),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                condition=models.Q(("finished_at__isnull", False)),
                fields=["finished_at"],
                name="django_jobs_ended",
            ),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                condition=models.Q(("result__isnull", False), ("result_expires_at__isnull", False)),
                fields=["result_expires_at"],
                name="django_jobs_result_expires",
            ),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                condition=models.Q(
                    ("status__in", ["deferred", "queued", "scheduled", "started"]),
                    models.Q(("observed_id", ""), _negated=True),
                ),
                fields=["queue", "id"],
                name="django_jobs_observed",
            ),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                condition=models.Q(("status", "failed")),
                fields=["fingerprint", "id"],
                name="django_jobs_fingerprint",
            ),
        ),
        migrations.AddConstraint(
            model_name="job",
            constraint=models.UniqueConstraint(
                condition=models.Q(
                    ("status__in", ["deferred", "queued", "scheduled", "started"]),
                    ("unique_key__isnull", False),
                ),
                fields=("unique_key",),
                name="django_jobs_one_unfinished_per_key",
            ),
        ),
    ]
