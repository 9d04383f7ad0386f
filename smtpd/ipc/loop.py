"""The event loop of dispatcher, lookup and queue, which need coroutines, streams or the fastest of loops: uvloop."""

import asyncio
import concurrent.futures.thread
import os
import socket
from typing import Any

import uvloop

from smtpd.ipc.log import log

_LOADED = concurrent.futures.thread  # which run_in_executor would import when it is first called


def prepare() -> asyncio.AbstractEventLoop:
    """A loop that has opened everything it will ever open.  Call it before the sandbox is entered."""
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    one, other = socket.socketpair()
    with other:
        # libuv opens /dev/null at its first stream, which an empty root does not have.
        transport, _ = loop.run_until_complete(loop.create_connection(asyncio.Protocol, sock=one))
        transport.close()
        loop.run_until_complete(asyncio.sleep(0))
    loop.set_exception_handler(_crashed)
    return loop


def _crashed(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """An exception that no session, envelope or request was there to catch: we are broken, so we end."""
    error = context.get("exception")
    if isinstance(error, OSError) and context.get("transport") is not None:
        return  # a client's connection broke in an unusual way; its protocol hears of it by connection_lost
    log.later = None
    log.trouble("fatal", error or RuntimeError(context.get("message", "")))
    log.flush()
    os._exit(1)
