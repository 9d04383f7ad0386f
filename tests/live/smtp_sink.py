"""smtp-sink of Postfix: a server that throws mail away, or refuses it as its options say."""

import contextlib
import os
import socket
import subprocess
import time

import pytest

from tests.bench.testbed import PEERS
from tests.unique import free_port

PROGRAM = PEERS / "postfix/usr/sbin/smtp-sink"
LIBRARIES = f"{PEERS}/postfix/usr/lib/postfix:{PEERS}/postfix/usr/lib/x86_64-linux-gnu"
START_TIMEOUT = 60.0  # seconds

needs_sink = pytest.mark.skipif(not PROGRAM.exists(), reason="smtp-sink is not here (tests/peers.sh)")


@contextlib.contextmanager
def smtp_sinks():
    """`start(*options)` starts one and returns its port; all of them end with the block."""
    processes = []

    def start(*options):
        port = free_port()
        environment = {**os.environ, "LD_LIBRARY_PATH": LIBRARIES}
        command = [PROGRAM, "-u", "nobody", *options] if os.geteuid() == 0 else [PROGRAM, *options]
        processes.append(subprocess.Popen([*command, f"127.0.0.1:{port}", "64"], env=environment))
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                return port
            time.sleep(0.02)
        raise AssertionError("smtp-sink does not start")

    try:
        yield start
    finally:
        for process in processes:
            process.kill()
            process.wait()
