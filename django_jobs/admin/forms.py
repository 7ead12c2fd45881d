"""Forms made of signatures: the arguments of a call, each in a field for its type.

What the type hints do not tell is asked for as JSON, in which arguments are stored anyway.
"""

import inspect
import json
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from inspect import Parameter
from itertools import chain, repeat
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from django import forms
from django.core.exceptions import ValidationError
from django.utils.text import Truncator
from django.utils.translation import gettext

from .. import registry
from ..redaction import MASK, redact
from ..values import json_error

_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_ANYTHING = inspect.signature(lambda *args, **kwargs: None)


class JSONField(forms.CharField):
    """A value as JSON. Where nothing is required, nothing written is None."""

    def __init__(self, *, kind: type | None = None, **options: Any) -> None:
        attributes = {"rows": 2, "spellcheck": "false", "class": "jobs-json"}
        super().__init__(widget=forms.Textarea(attrs=attributes), **options)
        self.kind = kind  # What it must be: list or dict; None for anything.

    def clean(self, value: Any) -> Any:
        text = (value or "").strip()
        if not text:
            if self.required:
                raise ValidationError(self.error_messages["required"], code="required")
            return None
        return MASK if text == MASK else self._read(text)

    def has_changed(self, initial: Any, data: Any) -> bool:
        return _lines(initial or "").strip() != _lines(data or "").strip()

    def _read(self, text: str) -> Any:
        try:
            read = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValidationError(_no_json(text, error)) from None
        if problem := json_error(read):
            raise ValidationError(gettext("This cannot be stored: it {problem}.").format(problem=problem))
        if read is None and not self.required:
            return None
        if self.kind is list and not isinstance(read, list):
            raise ValidationError(gettext("Write a JSON list, such as [1, 2]."))
        if self.kind is dict and not isinstance(read, dict):
            raise ValidationError(gettext('Write a JSON object, such as {"name": 1}.'))
        return read


class TextField(forms.CharField):
    """Text as it is written, spaces and all."""

    def to_python(self, value: Any) -> Any:
        text = super().to_python(value)
        return _lines(text) if text else text


class CallForm(forms.Form):
    """The arguments of a call of `task`, by its signature. Of a call that there was, `args` and `kwargs` are
    filled in.

    What is not changed stays as it was given, also where it is shown masked. Where the signature cannot be
    had or does not take what was given, `is_plain` is true: all arguments are two fields of JSON.
    """

    def __init__(
        self,
        task: str,
        data: Any = None,
        *,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        prefix: str = "call",
    ) -> None:
        super().__init__(data, prefix=prefix)
        signature = _signature(task)
        given = _bound(signature, args, kwargs or {}) if signature else None
        self.is_plain = given is None
        if signature is None or given is None:
            signature = _ANYTHING
            given = {
                name: value for name, value in (("args", [*args]), ("kwargs", {**(kwargs or {})})) if value
            }
        self._given = given
        self._shown = {name: redact({name: value})[name] for name, value in given.items()}
        if self.is_plain and args:
            names = chain(registry.parameters(task) or (), repeat(""))
            self._shown["args"] = [
                redact({name: each})[name] for name, each in zip(names, args, strict=False)
            ]
        self._by_position = len(args)
        self._parameters = list(signature.parameters.values())
        hints = {} if self.is_plain else _hints(task)
        for parameter in self._parameters:
            self.fields[parameter.name] = self._field(parameter, hints.get(parameter.name))

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        names = {each.name for each in self._parameters}
        for parameter in self._parameters:
            name, value = parameter.name, cleaned.get(parameter.name)
            is_masked = self._given.get(name) != self._shown.get(name)
            # One that stays as it was may be a mask.
            further = value if parameter.kind is Parameter.VAR_KEYWORD and isinstance(value, dict) else {}
            if is_masked and name in self.changed_data and MASK in json.dumps(value):
                told = gettext("Write the value itself instead of {mask}, or leave all of it as it was.")
                self.add_error(name, told.format(mask=MASK))
            elif twice := names & further.keys() - {name}:
                told = gettext("These have fields of their own: {names}")
                self.add_error(name, told.format(names=", ".join(sorted(twice))))
        return cleaned

    def arguments(self) -> tuple[list[Any], dict[str, Any]]:
        """The positional and keyword arguments of the call, once the form is valid. What was not given
        before and is left at its default is not given."""
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        must_be_by_position = self._count_by_position()
        is_open = True  # As long as none was left out, others can follow by position.
        for index, parameter in enumerate(self._parameters):
            value = self._value(parameter)
            if parameter.kind is Parameter.VAR_POSITIONAL:
                args += value or []
            elif parameter.kind is Parameter.VAR_KEYWORD:
                kwargs |= value or {}
            elif index < must_be_by_position:
                args.append(value)
            elif self._is_left_out(parameter):
                is_open = False
            elif is_open and self._is_by_position(parameter, index):
                args.append(value)
            else:
                kwargs[parameter.name] = value
        return args, kwargs

    def placeholders(self) -> str:
        """What stands between the brackets of the call before anything is written: `left, right`."""
        needed = [each.name for each in self._parameters if each.default is Parameter.empty]
        kinds = {each.name: each.kind for each in self._parameters}
        variadic = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
        shown = [
            f"{name}=…" if kinds[name] is Parameter.KEYWORD_ONLY else name
            for name in needed
            if kinds[name] not in variadic
        ]
        return ", ".join(shown)

    def _field(self, parameter: Parameter, hint: Any) -> forms.Field:
        kind, is_optional = _without_none(hint)
        has_default = parameter.default is not Parameter.empty
        if parameter.kind is Parameter.VAR_POSITIONAL:
            kind, has_default = list, True
        elif parameter.kind is Parameter.VAR_KEYWORD:
            kind, has_default = dict, True
        elif hint is None and isinstance(parameter.default, bool | int | float | str):
            kind = type(parameter.default)
        value = self._given.get(parameter.name, parameter.default if has_default else None)
        if value is Parameter.empty or json_error(value) is not None:
            value = None
        shown = self._shown.get(parameter.name, redact({parameter.name: value})[parameter.name])
        options: dict[str, Any] = {
            "label": f"{_STARS.get(parameter.kind, '')}{parameter.name}",
            "help_text": _described(parameter),
            "required": not (has_default or is_optional or (parameter.name in self._given and value is None)),
        }
        if shown != value and shown == MASK:
            return TextField(strip=False, initial=MASK, **options) if kind is str else _masked(kind, options)
        if shown is not None and not _is_of(kind, shown):
            kind = None  # It is kept as what it is.
        return _field_of(kind, shown, is_optional, parameter.name in self._given, options)

    def _count_by_position(self) -> int:
        """How many of the parameters must be given by position, also those that could be left out."""
        count = 0
        for index, parameter in enumerate(self._parameters):
            if parameter.kind is Parameter.VAR_POSITIONAL and self._value(parameter):
                count = index
            elif parameter.kind is Parameter.POSITIONAL_ONLY and not self._is_left_out(parameter):
                count = index + 1
        return count

    def _value(self, parameter: Parameter) -> Any:
        if parameter.name not in self.changed_data:
            if parameter.name in self._given:
                return self._given[parameter.name]
            if parameter.default is not Parameter.empty:
                return parameter.default
        return self.cleaned_data[parameter.name]

    def _is_left_out(self, parameter: Parameter) -> bool:
        name, default = parameter.name, parameter.default
        if default is Parameter.empty:
            return False
        if name not in self.changed_data:
            return name not in self._given
        value = self.cleaned_data[name]
        if (
            isinstance(self.fields[name], JSONField | forms.IntegerField)
            and not (self[name].data or "").strip()
        ):
            return default is not None or name not in self._given
        return name not in self._given and type(value) is type(default) and bool(value == default)

    def _is_by_position(self, parameter: Parameter, index: int) -> bool:
        if parameter.kind not in _POSITIONAL:
            return False
        return index < self._by_position if self._given else parameter.default is Parameter.empty


_STARS: dict[Any, str] = {Parameter.VAR_POSITIONAL: "*", Parameter.VAR_KEYWORD: "**"}


def _signature(task: str) -> inspect.Signature | None:
    with suppress(Exception):  # Whatever its module does: who runs it will tell.
        return inspect.signature(registry.load(task))
    return None


def _hints(task: str) -> dict[str, Any]:
    with suppress(Exception):  # For example a name that only type checkers import.
        return get_type_hints(inspect.unwrap(registry.load(task)))
    return {}


def _bound(
    signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any] | None:
    """What is given, by the names of the parameters; None if they do not take it."""
    if not args and not kwargs:
        return {}
    try:
        bound = signature.bind(*args, **kwargs).arguments
    except TypeError:
        return None
    return {name: [*value] if isinstance(value, tuple) else value for name, value in bound.items()}


def _without_none(hint: Any) -> tuple[Any, bool]:
    """The type in `type | None`, and whether None is one of the types."""
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if get_origin(hint) not in (Union, UnionType):
        return hint, False
    kinds = [kind for kind in get_args(hint) if kind is not NoneType]
    return (kinds[0] if len(kinds) == 1 else None), len(kinds) < len(get_args(hint))


def _is_of(kind: Any, value: Any) -> bool:
    """Whether a field for this type can show the value."""
    origin = get_origin(kind) or kind
    if origin is Literal:
        return any(type(value) is type(each) and value == each for each in get_args(kind))
    if origin is float:
        return type(value) in (int, float)
    return type(value) is origin if origin in (bool, int, str) else True


def _field_of(
    kind: Any, shown: Any, is_optional: bool, is_given: bool, options: dict[str, Any]
) -> forms.Field:
    origin = get_origin(kind) or kind
    if origin is Literal and all(json_error(value) is None for value in get_args(kind)):
        return _choice(
            {json.dumps(value): str(value) for value in get_args(kind)}, shown, is_optional, options
        )
    if origin is bool and (is_optional or (is_given and shown is None)):
        return _choice({"true": "True", "false": "False"}, shown, True, options)
    if origin is bool:
        return forms.BooleanField(initial=bool(shown), **{**options, "required": False})
    if origin is int:
        return forms.IntegerField(initial=shown, **options)
    if origin is float:
        number = forms.NumberInput(attrs={"step": "any"})
        return forms.FloatField(initial=shown, widget=number, **options)
    if origin is str:
        widget = forms.Textarea(attrs={"rows": 4}) if "\n" in (shown or "") else forms.TextInput()
        # What was empty may stay so.
        required = options["required"] and not (is_given and not shown)
        empty = None if is_optional else ""
        return TextField(
            strip=False, initial=shown, widget=widget, empty_value=empty, **{**options, "required": required}
        )
    return JSONField(kind=_json_kind(kind), initial="" if shown is None else _as_json(shown), **options)


def _choice(
    choices: Mapping[str, str], shown: Any, is_optional: bool, options: dict[str, Any]
) -> forms.TypedChoiceField:
    empty = "None" if is_optional else "---------"
    listed = [*choices.items()]
    if is_optional or (shown is None and "null" not in choices):
        listed.insert(0, ("", empty))
    initial = "" if shown is None and "null" not in choices else json.dumps(shown)
    return forms.TypedChoiceField(
        choices=listed, coerce=json.loads, empty_value=None, initial=initial, **options
    )


def _masked(kind: Any, options: dict[str, Any]) -> JSONField:
    return JSONField(kind=_json_kind(kind), initial=MASK, **options)


def _json_kind(kind: Any) -> type | None:
    """What JSON has for this type; None for anything."""
    origin = get_origin(kind) or kind
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return dict
    return list if isinstance(origin, type) and issubclass(origin, Sequence | Set) else None


def _described(parameter: Parameter) -> str:
    """The type and the default, as in the code."""
    annotation, default = parameter.annotation, parameter.default
    told = []
    if isinstance(annotation, str):
        told.append(annotation)
    elif annotation is not Parameter.empty:
        told.append(inspect.formatannotation(annotation).replace("typing.", ""))
    elif parameter.kind is Parameter.VAR_POSITIONAL:
        told.append(gettext("a JSON list"))
    elif parameter.kind is Parameter.VAR_KEYWORD:
        told.append(gettext("a JSON object"))
    elif not isinstance(default, bool | int | float | str):
        told.append(gettext('JSON, such as 42, true or "text"'))
    if default is not Parameter.empty:
        shown = redact({parameter.name: default})[parameter.name]
        told.append(gettext("default: {value}").format(value=repr(shown)))
    return Truncator(" · ".join(told)).chars(120)


def _as_json(value: Any) -> str:
    return json.dumps(
        value, ensure_ascii=False, indent=2 if value and isinstance(value, list | dict) else None
    )


def _no_json(text: str, error: Exception) -> str:
    shown = Truncator(text).chars(40)
    if text[0] in '[{"' and isinstance(error, json.JSONDecodeError):
        line = Truncator(text.split("\n")[error.lineno - 1].strip()).chars(40)
        said = gettext("This is no valid JSON from line {line}, column {column} on: {text}")
        return said.format(line=error.lineno, column=error.colno, text=line)
    if text[0] in '[{"':
        return gettext("This is no valid JSON: {text}").format(text=shown)
    quoted = json.dumps(shown, ensure_ascii=False)
    return gettext("This is no JSON. Text is written in quotes: {text}").format(text=quoted)


def _lines(text: str) -> str:
    """With the line ends of Python; browsers send others."""
    return text.replace("\r\n", "\n")
