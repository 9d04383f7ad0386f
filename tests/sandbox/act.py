"""What is tried in a sandbox: a name, what has to be made ready outside, and what is done inside."""

import ctypes
import inspect
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class World:
    """What an act may use."""

    sibling: int  # a process of another user
    base: str = "/"  # the directory that there is to work in, if any
    held: list[str] = field(default_factory=list)
    loop: Any = None
    ready: Any = None  # what prepare left here


@dataclass
class Act:
    perform: Callable[[World], Awaitable[None] | None]
    on_loop: bool  # makes sense on an event loop only
    prepare: Callable[[World], None] = lambda world: None


ACTS: dict[str, Act] = {}


def act(perform: Callable) -> Callable:
    ACTS[perform.__name__] = Act(perform, inspect.iscoroutinefunction(perform))
    return perform


def before(name: str) -> Callable:
    """Marks what makes the act `name` ready, outside."""

    def register(prepare: Callable) -> Callable:
        ACTS[name].prepare = prepare
        return prepare

    return register


_libc = ctypes.CDLL(None, use_errno=True)


def raw(number: int, *arguments: int | bytes | None) -> int:
    """A system call as an intruder makes it, past all libraries."""
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    result = _libc.syscall(ctypes.c_long(number), *words)
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
