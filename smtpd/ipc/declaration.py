"""@imsg: what one process may say to another, declared once.

    @imsg("dispatcher -> lookup")
    class ExpandRecipient:
        request: int
        recipient: str

becomes a frozen msgspec.Struct, encoded as a msgpack array, with an entry in a Table:

    number      its place in the table, the `type` of a frame
    routes      sender and receiver; "a -> b -> c" is passed on by b, "a, b -> c" has two senders
    answers     the request it answers
    descriptor  one comes with each frame of it, or none may
    limit       bytes of payload at the most

A secret field (SECRET in envelope.py) is not shown when an imsg is printed, by whatever mistake that would be.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from smtpd.envelope import SECRET

DEFAULT_LIMIT = 16 * 1024

Route = tuple[str, str]


class Declaration(msgspec.Struct, frozen=True):
    number: int
    cls: type
    routes: frozenset[Route]
    answers: type | None
    descriptor: bool
    limit: int  # bytes of payload


class Table:
    """All imsgs of one protocol, in the order of their declaration."""

    def __init__(self) -> None:
        self.declarations: list[Declaration] = []
        self.by_class: dict[type, Declaration] = {}

    def declare(
        self, arrows: str, *, answers: type | None = None, descriptor: bool = False, limit: int = DEFAULT_LIMIT
    ) -> Callable[[type], Any]:
        """A class decorator: make the class below an imsg that may go along `arrows`."""

        def decorate(cls: type) -> type:
            struct = _struct(cls)
            declaration = Declaration(len(self.declarations) + 1, struct, _routes(arrows), answers, descriptor, limit)
            self.declarations.append(declaration)
            self.by_class[struct] = declaration
            return struct

        return decorate

    def routes(self) -> set[Route]:
        return set().union(*(declaration.routes for declaration in self.declarations))

    def between(self, sender: str, receiver: str) -> dict[int, Declaration]:
        """What `sender` may say to `receiver`, by number."""
        return {d.number: d for d in self.declarations if (sender, receiver) in d.routes}

    def digest(self) -> int:
        """The version of the protocol, 32 bits: any change of a name, an arrow, a field or a limit changes it.

        To be called before a sandbox is entered, as it imports a module."""
        import hashlib  # only control and smtpctl need it, and it loads OpenSSL

        words = []
        for d in self.declarations:
            fields = [(f.encode_name, repr(f.type)) for f in msgspec.structs.fields(d.cls)]
            words.append(repr((d.number, d.cls.__name__, sorted(d.routes), fields, d.descriptor, d.limit)))
        return int.from_bytes(hashlib.sha256("\n".join(words).encode()).digest()[:4], "big")


def _struct(cls: type) -> type:
    fields = [
        (name, kind, cls.__dict__[name]) if name in cls.__dict__ else (name, kind)
        for name, kind in cls.__annotations__.items()
    ]
    return msgspec.defstruct(
        cls.__name__,
        fields,
        namespace={"__doc__": cls.__doc__, "__qualname__": cls.__qualname__} | _representation(fields),
        module=cls.__module__,
        frozen=True,
        array_like=True,
        forbid_unknown_fields=True,
        gc=False,
    )


def _representation(fields: list[tuple[str, Any] | tuple[str, Any, Any]]) -> dict[str, Any]:
    """Its own repr for a class with a secret, as that of a Struct shows everything."""
    shown = {field[0]: not _is_secret(field[1]) for field in fields}
    if all(shown.values()):
        return {}

    def __repr__(self: Any) -> str:
        values = (f"{name}={getattr(self, name)!r}" if open else f"{name}=..." for name, open in shown.items())
        return f"{type(self).__name__}({', '.join(values)})"

    return {"__repr__": __repr__}


def _is_secret(kind: Any) -> bool:
    return any(meta.extra == SECRET for meta in getattr(kind, "__metadata__", ()))


def _routes(arrows: str) -> frozenset[Route]:
    """`"a, b -> c"` is a to c and b to c; `"a -> b -> c"` is a to b and b to c."""
    stations = [[name.strip() for name in station.split(",")] for station in arrows.split("->")]
    if len(stations) < 2 or not all(name.isidentifier() for station in stations for name in station):
        raise ValueError(f"not an arrow: {arrows!r}")
    return frozenset(
        (sender, receiver)
        for senders, receivers in zip(stations, stations[1:], strict=False)
        for sender in senders
        for receiver in receivers
    )
