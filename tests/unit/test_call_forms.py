"""Forms made of signatures, by hand: what is typed in them is what the task is called with."""

from collections.abc import Callable
from typing import Any, Literal

import pytest

from django_jobs import task
from django_jobs.admin.forms import CallForm
from django_jobs.redaction import MASK


@task
def typed(count: int, ratio: float, name: str, kind: Literal["a", "b"], force: bool = False) -> None: ...


@task
def optional(
    limit: int | None = None,
    title: str | None = None,
    is_new: bool | None = None,
    rest: list[int] | None = None,
) -> None: ...


@task
def untyped(file_id, force_rechunk=False, depth=3): ...


@task
def everything(
    first: int, second: int = 2, /, third: int = 3, *rest: int, fourth: int = 4, **more: Any
) -> None: ...


@task
def secret(
    user: str, password: str = "usual", pin_token: int = 0, options: dict[str, Any] | None = None
) -> None: ...


@task
def keyring(*tokens, **credentials): ...


@task
def hinted_by_nobody(value: "NoSuchName", other: "int" = 5) -> None: ...  # type: ignore[name-defined]  # noqa: F821


def name_of(function: Callable[..., Any]) -> str:
    return f"tests.unit.test_call_forms.{function.__name__}"


def filled(function, written=(), **given):
    """The form as a browser sends it back: what it showed, with what was written."""
    shown = CallForm(name_of(function), **given)
    data = {}
    for field in shown:
        value = field.value()
        if value not in (None, False):
            data[field.html_name] = "on" if value is True else str(value)
    data |= {f"call-{name}": value for name, value in dict(written).items() if value is not None}
    for name, value in dict(written).items():
        if value is None:
            data.pop(f"call-{name}", None)
    return CallForm(name_of(function), data, **given)


def called(function, written=(), **given):
    form = filled(function, written, **given)
    assert form.is_valid(), form.errors
    return form.arguments()


def test_what_is_written_is_of_the_type_that_the_hint_names():
    written = {"count": "42", "ratio": "1.5", "name": " text ", "kind": '"b"', "force": "on"}

    assert called(typed, written) == ([42, 1.5, " text ", "b"], {"force": True})


def test_what_stays_at_its_default_is_left_out():
    written = {"count": "1", "ratio": "2", "name": "x", "kind": '"a"'}

    assert called(typed, written) == ([1, 2.0, "x", "a"], {})


@pytest.mark.parametrize(
    ("field", "written"),
    [("count", "1.5"), ("count", ""), ("ratio", "much"), ("ratio", "nan"), ("kind", '"c"'), ("name", "")],
)
def test_what_is_not_of_its_type_is_told_beside_its_field(field, written):
    good = {"count": "1", "ratio": "2", "name": "x", "kind": '"a"'}

    form = filled(typed, good | {field: written})

    assert list(form.errors) == [field]
    assert form[field].value() == written


def test_nothing_written_for_an_optional_parameter_is_none():
    assert called(optional) == ([], {})
    assert called(optional, {"limit": "5", "is_new": "true", "rest": "[1]"}) == (
        [],
        {"limit": 5, "is_new": True, "rest": [1]},
    )
    assert called(optional, {"limit": ""}, kwargs={"limit": 7}) == ([], {"limit": None})


def test_a_parameter_without_a_hint_takes_json_and_that_with_a_default_its_type():
    assert called(untyped, {"file_id": '{"a": [1]}', "force_rechunk": "on"}) == (
        [{"a": [1]}],
        {"force_rechunk": True},
    )
    assert called(untyped, {"file_id": '"x"', "depth": "4"}) == (["x"], {"depth": 4})
    assert called(untyped, {"file_id": "null"}, args=[5]) == ([None], {})


@pytest.mark.parametrize(
    ("written", "told"),
    [("hello", 'Text is written in quotes: "hello"'), ('{"a"', "no valid JSON"), ("NaN", "cannot be stored")],
)
def test_what_is_no_json_is_told_with_what_to_write(written, told):
    form = filled(untyped, {"file_id": written})

    assert told in form.errors["file_id"][0]


def test_each_kind_of_parameter_is_given_as_python_takes_it():
    assert called(everything, {"first": "1"}) == ([1], {})
    assert called(everything, {"first": "1", "second": "5"}) == ([1, 5], {})
    assert called(everything, {"first": "1", "third": "5"}) == ([1], {"third": 5})
    assert called(everything, {"first": "1", "rest": "[7, 8]", "fourth": "9", "more": '{"x": 1}'}) == (
        [1, 2, 3, 7, 8],
        {"fourth": 9, "x": 1},
    )


def test_a_further_argument_cannot_take_the_place_of_one_that_has_a_field():
    form = filled(everything, {"first": "1", "more": '{"third": 9}'})

    assert "fields of their own: third" in form.errors["more"][0]


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [([1], {}), ([1, 2], {"third": 3}), ([1, 2, 3, 4, 5], {"fourth": 4, "x": [1]}), ([9], {"third": 3})],
)
def test_a_call_that_is_not_changed_stays_as_it_was_given(args, kwargs):
    assert called(everything, args=args, kwargs=kwargs) == (args, kwargs)


def test_values_that_are_not_of_their_type_are_kept():
    args = ["many", 2, None, "c"]

    assert called(typed, args=args) == (args, {})
    assert called(typed, {"ratio": "3"}, args=args) == (["many", 3.0, None, "c"], {})


def test_lines_of_a_text_stay_lines():
    assert called(secret, {"user": "a\r\nb!"}, args=["a\nb"]) == (["a\nb!"], {})
    assert called(secret, {"user": "a\r\nb"}, args=["a\nb"]) == (["a\nb"], {})


def test_secrets_are_shown_masked_and_stay_as_they_were():
    given = {"args": ["op", "hunter2", 1234], "kwargs": {"options": {"api_key": "abc", "depth": 1}}}

    form = CallForm(name_of(secret), **given)

    html = form.as_p()
    assert MASK in html
    assert not [each for each in ("hunter2", "1234", "abc", "usual") if each in html]
    assert called(secret, **given) == (given["args"], given["kwargs"])
    assert called(secret, {"password": "new"}, **given)[0] == ["op", "new", 1234]


def test_where_all_further_arguments_are_masked_they_stay_or_are_written_anew():
    given = {"args": ["abc"], "kwargs": {"login": "hunter2"}}

    assert called(keyring, **given) == (["abc"], {"login": "hunter2"})
    assert called(keyring, {"tokens": "[1]", "credentials": '{"login": 2}'}, **given) == ([1], {"login": 2})
    form = filled(keyring, {"tokens": "5", "credentials": "5"}, **given)
    assert "JSON list" in form.errors["tokens"][0]
    assert "JSON object" in form.errors["credentials"][0]


def test_a_mask_is_never_sent_as_a_value():
    given = {"args": ["op"], "kwargs": {"options": {"api_key": "abc", "depth": 1}}}

    form = filled(secret, {"options": f'{{"api_key": "{MASK}", "depth": 2}}'}, **given)

    assert "Write the value itself" in form.errors["options"][0]


@pytest.mark.parametrize("given", [{"args": [1, 2, 3, 4]}, {"kwargs": {"gone": 1}}])
def test_what_the_signature_does_not_take_is_edited_as_plain_json(given):
    form = CallForm(name_of(untyped), **given)

    assert form.is_plain
    assert called(untyped, **given) == (given.get("args", []), given.get("kwargs", {}))
    assert called(untyped, {"args": "[5]", "kwargs": "{}"}, **given) == ([5], {})


def test_secrets_by_position_are_masked_as_well_where_the_signature_takes_them_no_more():
    form = CallForm(name_of(secret), args=["op", "hunter2", 0, {}, "too many"])

    assert "hunter2" not in form.as_p()


def test_a_task_that_is_gone_has_plain_fields():
    form = CallForm("no.such.task", {"call-args": "[1]", "call-kwargs": '{"a": 2}'})

    assert form.is_valid()
    assert form.arguments() == ([1], {"a": 2})


def test_hints_that_cannot_be_read_make_fields_of_json():
    assert called(hinted_by_nobody, {"value": "[1]"}) == ([[1]], {})


@pytest.mark.parametrize("name", ["rest", "more", "first"])
def test_hostile_text_stays_text(name):
    html = filled(everything, {"first": "1", name: "<script>alert(1)</script>"}).as_p()

    assert "<script>" not in html
