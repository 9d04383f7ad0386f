"""Whether a text fits the type that it will travel in: at the entrance, and not at the process that receives it.

    fault(Word, "a\\tb")             "a control character"         empty if it fits
    misfits(model, type(model))     each text that does not fit its field, and why
    fit(Text, "what\nhas failed")   "what\\012has failed"     for a reason that another program has written

msgspec checks the types of envelope.py when an imsg is decoded, not when it is made, and a process that receives what
does not fit ends the daemon.  So whatever comes from outside is compared with the type before it is part of an imsg.
"""

import builtins
import re
import types
import typing
from collections.abc import Iterator
from functools import lru_cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from smtpd.ipc.log import visible

_SURROGATE = re.compile("[\ud800-\udfff]")


def text_error(kind: Any, text: str) -> str:
    """What is wrong with `text` as a value of `kind`, a text of envelope.py; empty if nothing is."""
    longest, allowed = _limits(kind)
    if longest is not None and len(text) > longest:
        return f"more than {longest} characters"
    if _SURROGATE.search(text):
        return "bytes that are not UTF-8"
    return "" if allowed is None or allowed.search(text) else "a control character"


@lru_cache
def _limits(kind: Any) -> tuple[int | None, re.Pattern[str] | None]:
    """The longest text, in characters, and the pattern of an annotated `str`."""
    assert get_origin(kind) is Annotated and get_args(kind)[0] is str, f"{kind} bounds no text"
    (meta,) = kind.__metadata__
    return meta.max_length, None if meta.pattern is None else re.compile(meta.pattern)


def text_errors(value: Any, kind: Any) -> Iterator[tuple[str, str]]:
    """The texts in `value`, of the type `kind`, that do not fit their own types, and what is wrong with each."""
    of = get_args(kind)
    match get_origin(kind):
        case _ if value is None:
            return
        case typing.Annotated if of[0] is str:
            if wrong := text_error(kind, value):
                yield value, wrong
        case typing.Annotated | typing.Union | types.UnionType:
            inner = next(one for one in of if one is not types.NoneType)
            yield from text_errors(value, inner)
        case builtins.tuple if of[-1] is ...:
            for item in value:
                yield from text_errors(item, of[0])
        case builtins.tuple:
            for item, of_item in zip(value, of, strict=True):
                yield from text_errors(item, of_item)
        case builtins.dict:
            for key, item in value.items():
                yield from text_errors(key, of[0])
                yield from text_errors(item, of[1])
        case None:
            for name, of_field in _fields(kind).items():
                yield from text_errors(getattr(value, name), of_field)


@lru_cache
def _fields(cls: Any) -> dict[str, Any]:
    """Of a dataclass or a Struct; other types have none."""
    return get_type_hints(cls, include_extras=True)


def fit_text(kind: Any, text: str) -> str:
    """A reason that others have written, as much of it as `kind` carries, with what it does not as \\ooo."""
    longest, _ = _limits(kind)
    if text.isprintable() and (longest is None or len(text) <= longest):
        return text
    return visible(text)[:longest]
