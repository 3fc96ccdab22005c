"""Passes from text: names and `pass.option=value` settings to configured passes."""

import sys
from collections.abc import Sequence
from dataclasses import Field, dataclass, fields
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from e2compile.errors import UsageError
from e2compile.passes import ALL, BY_NAME
from e2compile.pipeline import Pass
from e2compile.presets import PRESETS, Preset

_WORDS = {bool: "yes or no", int: "a whole number", float: "a number", str: "text"}
_FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class Option:
    """A pass's option: its type in words, and its default as text."""

    name: str
    kind: str
    default: str


@dataclass(frozen=True)
class Description:
    """A pass for people: one sentence, the rewrite, its options."""

    name: str
    title: str
    rewrite: str
    options: tuple[Option, ...]


def parse_passes(
    names: str | None = None, settings: Sequence[str] = (), preset: str = "default"
) -> tuple[Pass, ...]:
    """Passes in their order: "smd,psg", "none", None for the preset's; settings are "smd.p=0.5".

    A preset's settings of the chosen passes come first, `settings` go over them.

    Raises UsageError for an unknown pass or option, or a value of the wrong type.
    """
    if preset not in PRESETS:
        raise UsageError(f"no preset {preset!r}; there is {', '.join(PRESETS)}")
    values: dict[str, dict[str, Any]] = {name: {} for name in _chosen(names, PRESETS[preset])}
    for name, option, value in map(_setting, PRESETS[preset].settings):
        if name in values:
            values[name][option] = value
    for setting in settings:
        name, option, value = _setting(setting)
        if name not in values:
            chosen = ", ".join(values) or "none"
            raise UsageError(f"--set {setting}: pass {name} is not among those chosen ({chosen})")
        values[name][option] = value
    kinds: list[type[Any]] = [item for item in ALL if item.name in values]
    return tuple(kind(**values[kind.name]) for kind in kinds)


def describe_passes() -> tuple[Description, ...]:
    """Every pass of this version, in order."""
    return tuple(_describe(item) for item in ALL)


def _chosen(names: str | None, preset: Preset) -> Sequence[str]:
    if names is None:
        return preset.passes
    if names == "none":
        return []
    chosen = [name.strip() for name in names.split(",")]
    for name in chosen:
        _check(name)
    return chosen


def _check(name: str) -> None:
    if name not in BY_NAME:
        raise UsageError(f"no pass {name!r}; there is {', '.join(BY_NAME)}, or none")


def _setting(setting: str) -> tuple[str, str, Any]:
    place, equals, text = setting.partition("=")
    name, dot, option = place.partition(".")
    if not (equals and dot and option):
        raise UsageError(f"--set {setting}: write it as pass.option=value, like smd.p=0.5")
    _check(name)
    hints = get_type_hints(BY_NAME[name])
    known = [field.name for field in fields(BY_NAME[name])]
    if option not in known:
        raise UsageError(f"--set {setting}: pass {name} has no option {option!r}; it has {', '.join(known)}")
    try:
        return name, option, _converted(text, hints[option])
    except (ValueError, KeyError):
        raise UsageError(f"--set {setting}: {text!r} is not {_kind(hints[option])}") from None


def _converted(text: str, kind: Any) -> Any:
    """Text as a field's type; ValueError or KeyError where it is none."""
    kind = _given(kind)
    if kind is bool:
        return _FLAGS[text.lower()]
    if get_origin(kind) is Literal:
        return {str(value): value for value in get_args(kind)}[text]
    return kind(text)


def _given(kind: Any) -> Any:
    """What an option may be given as: its type, without the None that says it was not given."""
    if get_origin(kind) not in (Union, UnionType):
        return kind
    (given,) = (item for item in get_args(kind) if item is not NoneType)
    return given


def _kind(kind: Any) -> str:
    """A type in words."""
    kind = _given(kind)
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    return str(_WORDS.get(kind, kind.__name__))


def _describe(item: type[Any]) -> Description:
    hints = get_type_hints(item)
    options = tuple(Option(f.name, _kind(hints[f.name]), _default(f)) for f in fields(item))
    title = (sys.modules[item.__module__].__doc__ or "").partition("\n")[0]
    rewrite = (item.__doc__ or "").partition("\n")[0]
    return Description(item.name, title, rewrite, options)


def _default(field: "Field[Any]") -> str:
    return "unset" if field.default is None else str(field.default)
