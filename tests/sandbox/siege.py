"""Runs in a fresh interpreter: enters one sandbox again and again, each time for one attack or one piece of work.

    stdin   {"user": [uid, gid], "root", "base", "promises", "unveil", "loop", "unprivileged",
             "strict"}   strict: looking for a file is death instead of EACCES
    stdout  {name: what came of it}

What can come of it: "killed" (by the filter), "signal N", the name of an errno or of an exception, or "done".
"""

import errno
import json
import os
import signal
import socket
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

import attack
import uvloop
import work
from act import ACTS, Act, World

from smtpd import sandbox
from smtpd.sandbox import promise

assert attack and work
NOBODY = 64999


def main() -> None:
    order = json.load(sys.stdin)
    if order["strict"]:
        promise._WITHOUT_RPATH.clear()
    sandbox.deny()
    sandbox.rehearse()
    program = None if order["loop"] else sandbox.compile(order["promises"])
    sandbox.compile(order["promises"])
    sibling = os.fork()
    if sibling == 0:
        if os.geteuid() == 0:
            os.setresuid(NOBODY, NOBODY, NOBODY)
        signal.pause()
    try:
        results = {
            name: perform(order, name, program, sibling)
            for name, act in ACTS.items()
            if order["loop"] or not act.on_loop
        }
    finally:
        os.kill(sibling, signal.SIGKILL)
    json.dump(results, sys.stdout)


def perform(order: dict, name: str, program: bytes | None, sibling: int) -> str:
    """One act in a child of its own."""
    with tempfile.TemporaryFile() as output:
        child = os.fork()
        if child == 0:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            print(outcome(order, name, program, sibling), flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        output.seek(0)
        said = output.read().decode(errors="replace")
    if os.WIFSIGNALED(status):
        return "killed" if os.WTERMSIG(status) == signal.SIGSYS else f"signal {os.WTERMSIG(status)}\n{said}"
    return said.removesuffix("\n")


def outcome(order: dict, name: str, program: bytes | None, sibling: int) -> str:
    try:
        attempt(order, name, program, sibling)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, f"OSError: {error}")
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "done"


def attempt(order: dict, name: str, program: bytes | None, sibling: int) -> None:
    act = ACTS[name]
    world = World(sibling)
    loop = open_loop() if order["loop"] else None
    if order["unprivileged"] and os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    act.prepare(world)
    unveil = [tuple(pair) for pair in order["unveil"]]
    user, root = sandbox.Ids(*order["user"]), order["root"]
    world.held = sandbox.enter(user, root, order["promises"], unveil=unveil, program=program, required=True)
    world.base = order["base"] if root is None else sandbox.inside(root)
    world.loop = loop
    if loop is None:
        act.perform(world)
    else:
        loop.run_until_complete(in_loop(act, world))


def open_loop() -> uvloop.Loop:
    """A loop that has had its first stream, as every process makes it before it enters."""
    loop = uvloop.new_event_loop()
    one, other = socket.socketpair()
    transport, _ = loop.run_until_complete(loop.create_connection(work.Hear, sock=one))
    transport.close()
    other.close()
    return loop


async def in_loop(act: Act, world: World) -> None:
    result = act.perform(world)
    if result is not None:
        await result


main()
