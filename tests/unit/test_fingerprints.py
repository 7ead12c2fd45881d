"""Which failures fall together. Tracebacks are those of code that runs here, moved to where it would run."""

import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_jobs.fingerprints import (
    NORMALIZED_LIMIT,
    fingerprint,
    innermost_frame,
    normalized,
    project_frames,
)
from django_jobs.values import error_fields

PROJECT, LIBRARY = "/srv/shop/billing/tasks.py", "/venv/lib/python3.12/site-packages/paylib/client.py"


def module(path, code, **known):
    """The names of a module that stands at this path."""
    exec(compile(code, path, "exec"), known)
    return known


def traceback_of(function, *args):
    try:
        function(*args)
    except Exception as error:
        error.__traceback__ = error.__traceback__.tb_next  # Without the frame here.
        return error_fields(error)["traceback"]
    raise AssertionError("nothing was raised")


def a_failure(project=PROJECT, library=LIBRARY, lines_before=0):
    """The traceback of a library that fails, called by a task of the project."""
    pay = module(library, "def pay(cents):\n    raise ValueError(f'{cents} is too little')\n")["pay"]
    code = (
        "\n" * lines_before
        + "def bill(cents):\n    return send(cents)\ndef send(cents):\n    return pay(cents)\n"
    )
    return traceback_of(module(project, code, pay=pay)["bill"], 3)


def test_a_failure_came_up_in_the_innermost_frame_of_the_project():
    assert innermost_frame(a_failure()) == "billing/tasks.py in send"


@pytest.mark.parametrize(
    "path",
    [
        "/usr/lib/python3/dist-packages/paylib/client.py",
        "/usr/lib/python3.11/json/decoder.py",
        "/usr/lib64/python3.14t/json/decoder.py",
        "/opt/hostedtoolcache/Python/3.11.9/x64/lib/python3.11/json/decoder.py",
        "/Library/Frameworks/Python.framework/Versions/3.13/lib/python3.13/json/decoder.py",
        "C:\\Program Files\\Python312\\Lib\\json\\decoder.py",
        "C:\\hostedtoolcache\\windows\\Python\\3.11.9\\x64\\Lib\\json\\decoder.py",
        "C:\\shop\\venv\\Lib\\site-packages\\paylib\\client.py",
        "/usr/lib/python312.zip/json/decoder.py",
        "/srv/eggs/paylib-1.0-py3.12.egg/paylib/client.py",
        "/srv/src/django_jobs/executor.py",
        "/srv/src/django_jobs/engines/rq/worker.py",
        "<frozen importlib._bootstrap>",
        "<string>",
        "paylib/protocol.pyx",
    ],
)
def test_libraries_python_and_django_jobs_are_not_the_project(path):
    assert innermost_frame(a_failure(library=path)) == "billing/tasks.py in send"


@pytest.mark.parametrize(
    ("path", "frame"),
    [
        ("/srv/django_jobs/shop/tasks.py", "shop/tasks.py in pay"),
        ("/srv/python/shop/tasks.py", "shop/tasks.py in pay"),
        ("C:\\work\\shop\\tasks.py", "shop/tasks.py in pay"),
        ("/var/lib/shop/tasks.py", "shop/tasks.py in pay"),
        ("shop/tasks.py", "shop/tasks.py in pay"),
        ("tasks.py", "tasks.py in pay"),
        ("/srv/releases/20261011/tasks.py", "tasks.py in pay"),
        ("/srv/releases/1f2e3d4c/tasks.py", "tasks.py in pay"),
        ("/srv/v2.1/tasks.py", "tasks.py in pay"),
        ("/srv/shop/Überweisung/ta sks.py", "ta sks.py in pay"),
    ],
)
def test_all_else_is_the_project(path, frame):
    assert innermost_frame(a_failure(library=path)) == frame


def test_without_a_frame_of_the_project_it_is_the_innermost_of_all():
    assert innermost_frame(a_failure(project=LIBRARY)) == "paylib/client.py in pay"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "Work-horse terminated unexpectedly; waitpid returned 9 (signal 9); ",
        "Traceback (most recent call last):\nValueError: no frames",
        '  File "x.py", line 1\n    a b\nSyntaxError: invalid syntax',
    ],
)
def test_a_text_without_frames_has_no_innermost_one(text):
    assert innermost_frame(text) == ""
    assert all(not is_project for _, is_project in project_frames(text))


@pytest.mark.parametrize(
    "moved",
    [
        {"lines_before": 40},
        {"project": "/srv/billing/tasks.py"},
        {
            "project": "C:\\shop\\billing\\tasks.py",
            "library": "C:\\venv\\Lib\\site-packages\\paylib\\client.py",
        },
        {"library": "/opt/app/.venv/lib/python3.14/site-packages/paylib/client.py"},
    ],
)
def test_line_numbers_and_places_of_installation_do_not_matter(moved):
    there = fingerprint("ValueError", "3 is too little", a_failure(**moved))

    assert there == fingerprint("ValueError", "4711 is too little", a_failure())
    assert len(there) == 32
    assert set(there) <= set(string.hexdigits.lower())


@pytest.mark.parametrize(
    ("error_type", "message", "frames"),
    [
        ("KeyError", "3 is too little", a_failure()),
        ("ValueError", "3 is too much", a_failure()),
        ("ValueError", "3 is too little", a_failure(project="/srv/shop/mailing/tasks.py")),
        ("ValueError", "3 is too little", ""),
    ],
)
def test_class_message_and_place_matter(error_type, message, frames):
    assert fingerprint(error_type, message, frames) != fingerprint(
        "ValueError", "3 is too little", a_failure()
    )


def test_a_comprehension_is_the_function_around_it_as_since_python_3_12():
    code = "def bill(cents):\n    return [1 / each for each in cents]\n"

    assert innermost_frame(traceback_of(module(PROJECT, code)["bill"], [0])) == "billing/tasks.py in bill"
    before = f'{HEADER}\n  File "{PROJECT}", line 2, in bill\n  File "{PROJECT}", line 2, in <listcomp>\n'
    assert innermost_frame(before) == "billing/tasks.py in bill"


HEADER = "Traceback (most recent call last):"
CHAINED = f"""
def first():
    raise KeyError("a")
def because():
    try:
        first()
    except KeyError as error:
        raise ValueError("b") from error
def meanwhile():
    try:
        because()
    except ValueError:
        fail()
def fail():
    raise LookupError("c")
def embedded():
    raise ValueError('''the service said:
{HEADER}
  File "/srv/shop/service/views.py", line 3, in get
    raise KeyError("x")
KeyError: 'x'
''')
"""


@pytest.mark.parametrize("function", ["first", "because", "embedded"])
def test_of_a_chain_the_last_exception_counts(function):
    assert (
        innermost_frame(traceback_of(module(PROJECT, CHAINED)[function])) == f"billing/tasks.py in {function}"
    )


def test_of_a_chain_by_accident_the_last_exception_counts_too():
    assert innermost_frame(traceback_of(module(PROJECT, CHAINED)["meanwhile"])) == "billing/tasks.py in fail"


def test_the_last_exception_counts_even_if_only_an_earlier_one_is_of_the_project():
    parse = module(
        "/usr/lib/python3.12/json/x.py",
        "def parse(f):\n  try: f()\n  except KeyError as e: raise ValueError from e",
    )
    text = traceback_of(parse["parse"], module(PROJECT, CHAINED)["first"])

    assert innermost_frame(text) == "json/x.py in parse"


GROUPS = """
import asyncio
def leaf():
    raise ValueError("leaf")
def chained():
    try:
        leaf()
    except ValueError as error:
        raise KeyError("x") from error
def group(*functions):
    errors = []
    for function in functions:
        try:
            function()
        except Exception as error:
            errors.append(error)
    raise ExceptionGroup("some", errors)
def of_leaves():
    group(leaf, chained)
def of_groups():
    group(of_chains, leaf)
def of_chains():
    group(chained, leaf)
def then_fail():
    try:
        of_groups()
    except ExceptionGroup:
        fail()
def fail():
    raise LookupError("at last")
def from_another():
    try:
        fail()
    except LookupError as error:
        raise ExceptionGroup("some", [ValueError("never raised")]) from error
async def fail_soon():
    await asyncio.sleep(0)
    leaf()
async def in_tasks():
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(fail_soon())
def by_asyncio():
    asyncio.run(in_tasks())
"""


@pytest.mark.parametrize(
    ("function", "frame"),
    [
        ("of_leaves", "leaf"),
        ("of_chains", "chained"),
        ("of_groups", "chained"),
        ("then_fail", "fail"),
        ("from_another", "from_another"),
        ("by_asyncio", "leaf"),
    ],
)
def test_of_a_group_the_first_exception_within_counts(function, frame):
    assert innermost_frame(traceback_of(module(PROJECT, GROUPS)[function])) == f"billing/tasks.py in {frame}"


def test_a_group_whose_exceptions_are_not_of_the_project_came_up_where_it_was_raised():
    loads = module("/usr/lib/python3.12/json/x.py", "def loads():\n    raise ValueError")["loads"]
    # The exceptions pass through a frame of the library only.
    code = "def bill(loads, gather):\n    gather(loads)\n"
    gather = module(LIBRARY, GROUPS)["group"]

    assert (
        innermost_frame(traceback_of(module(PROJECT, code)["bill"], loads, gather))
        == "billing/tasks.py in bill"
    )


def test_a_cut_traceback_tells_its_end():
    code = "def down(n):\n    return other(n)\ndef other(n):\n    return down(n - 1) if n else 1 / 0\n"
    text = traceback_of(module(f"/srv/{'long/' * 40}shop/tasks.py", code)["down"], 200)

    assert "characters cut …" in text
    assert innermost_frame(text) == "shop/tasks.py in other"


def test_the_lines_of_the_projects_frames_are_marked():
    text = a_failure()

    lines = project_frames(text)

    assert "\n".join(line for line, _ in lines) == text
    assert [line.strip() for line, is_project in lines if is_project and "File" in line] == [
        f'File "{PROJECT}", line 2, in bill',
        f'File "{PROJECT}", line 4, in send',
    ]


def test_the_source_belongs_to_its_frame_and_the_message_to_none():
    def fail():
        json.loads("no json")

    lines = project_frames(traceback_of(fail))

    own = [line.strip() for line, is_project in lines if is_project]
    assert own[0].endswith("in fail")
    assert "json.loads(" in own[1]
    assert [is_project for line, is_project in lines if "json.decoder.JSONDecodeError" in line] == [False]
    assert sum("File" in line and not is_project for line, is_project in lines) >= 3


def test_the_frames_of_groups_are_marked_too():
    lines = project_frames(traceback_of(module(PROJECT, GROUPS)["by_asyncio"]))

    own = [line.rpartition(" in ")[2] for line, is_project in lines if is_project and "File" in line]
    assert own == ["by_asyncio", "in_tasks", "fail_soon", "leaf"]


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("", ""),
        ("no luck", "no luck"),
        ("can't do that, it's late", "can't do that, it's late"),
        (
            "3 of 10 failed after 2.5 s (-7, 1e-9, 1,234).",
            "<number> of <number> failed after <number> s (<number>, <number>, <number>).",
        ),
        ("page42 of file_7", "page<number> of file_<number>"),
        ("commit 1f2e3d4c, deadbeef, 0x1F", "commit <number>, <number>, <number>"),
        ("cus_9s6XKzkNRiz8i3xy", "cus_<number>"),
        ("job 550e8400-e29b-41d4-a716-446655440000 is gone", "job <uuid> is gone"),
        ("'a' is not \"b\" nor `c`", "<text> is not <text> nor <text>"),
        ("KeyError('it\\'s')", "KeyError(<text>)"),
        ("No such file: /srv/media/a.pdf", "No such file: <path>"),
        ("C:\\media\\a.pdf and media/b.pdf: denied", "<path> and <path>: denied"),
        (
            "at 2026-10-11 12:13:14.15+02:00 or 2026-10-11T12:13:14Z or 2026-10-11",
            "at <time> or <time> or <time>",
        ),
        ("ada.l@mail.example.org refused", "<email> refused"),
        ("<Job object at 0x7f12ab34>", "<Job object at <number>>"),
        ("see https://example.org/a?b=3.", "see <url>."),
        ("10.0.0.1:5432 timed out", "<number> timed out"),
        (" two\n\n lines\t", "two lines"),
    ],
)
def test_what_differs_each_time_becomes_a_placeholder(message, told):
    assert normalized(message) == told


def test_a_normalized_message_is_short():
    assert len(normalized("very " * 1_000)) == NORMALIZED_LIMIT
    assert normalized("very " * 1_000).endswith("…")


messages = st.text(
    alphabet=st.sampled_from(string.ascii_letters + string.digits * 3 + " .,:;-_/\\'\"()<>@=+\n")
)


@given(messages, st.randoms(use_true_random=False))
def test_other_digits_are_the_same_failure(message, chance):
    other = "".join(chance.choice(string.digits) if each in string.digits else each for each in message)

    assert fingerprint("ValueError", message, "") == fingerprint("ValueError", other, "")


@given(
    st.integers(),
    st.integers(),
    st.uuids(),
    st.uuids(),
    st.datetimes(),
    st.datetimes(),
    st.text(string.ascii_letters),
)
def test_other_ids_times_and_texts_are_the_same_failure(
    number, other_number, uuid, other_uuid, at, later, text
):
    one = f"Job {uuid} of page {number} at {at} ({at.isoformat()}): {text!r} is not in /srv/{uuid.hex}.pdf"
    other = f"Job {other_uuid} of page {other_number} at {later} ({later.isoformat()}): 'x' is not in /tmp/a"

    assert normalized(one) == normalized(other)


@given(st.text())
def test_any_text_has_a_fingerprint(text):
    assert len(fingerprint(text, text, text)) == 32
    assert len(normalized(text)) <= NORMALIZED_LIMIT
    assert "\n".join(line for line, _ in project_frames(text)) == text


@pytest.mark.parametrize(
    "part",
    [
        *(
            "a",
            "\n",
            " ",
            "|",
            '  File "',
            '", line 1, in ',
            f"{HEADER}\n",
            "  | \n",
            "+-",
            "/python3",
            "'\\",
            "a@",
        ),
        *(
            '  File "/srv/a.py", line 1, in b\n',
            f'{HEADER}\n  File "/srv/a.py", line 1, in b\n',
            "/lib/python3.",
        ),
        "The above exception was the direct cause of the following exception:\n",
    ],
)
@pytest.mark.parametrize("begin", ["", '  File "', f"{HEADER}\n"])
def test_a_hostile_text_takes_time_in_proportion_to_its_length(begin, part):
    # Anything that tries each place against all the others would take hours here.
    text = begin + part * (400_000 // len(part)) + ' ", line 1, in b'

    fingerprint("ValueError", text, text)
    project_frames(text)
