"""A DNS of our own: knotd has the zones and signs them, unbound resolves and validates.  Both on 127.0.0.1."""

import shutil
import socket
import subprocess
import time

import pytest

AUTHORITY_PORT, RESOLVER_PORT = 5300, 53
DIED = "{} did not start:\n{}"
START_MAX = 60.0  # seconds


class NameServers:
    """`signed` and `plain`: name of a zone -> its records; `top`: the zone that is the trust anchor; `silent`: names
    whose name server never answers; `lost`: names that the authority does not have."""

    def __init__(self, directory, signed, plain, top, silent=(), lost=()):
        for program in ("knotd", "keymgr", "unbound"):
            if shutil.which(program) is None:
                pytest.skip(f"{program} is not here (tests/peers.sh)")
        self.directory = directory
        self.processes = []
        self.hole = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.hole.bind(("127.0.0.1", 0))
        self.signed, self.plain, self.top, self.silent, self.lost = signed, plain, top, silent, lost

    def __enter__(self):
        try:
            self._start_authority()
            self._start_resolver()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.terminate()
            process.wait(20)
        self.hole.close()

    def _start_authority(self):
        for name, records in {**self.signed, **self.plain}.items():
            soa = f"$TTL 300\n@ SOA ns.{self.top}. root.{self.top}. 1 3600 600 86400 60\n@ NS ns.{self.top}.\n"
            (self.directory / f"{name}.zone").write_text(soa + records)
        zones = [f"  - domain: {name}\n    file: {name}.zone\n" for name in self.plain]
        zones += [f"  - domain: {name}\n    file: {name}.zone\n    dnssec-signing: on\n" for name in self.signed]
        (self.directory / "knot.conf").write_text(
            f"server:\n  rundir: {self.directory}\n  listen: 127.0.0.1@{AUTHORITY_PORT}\n  user: root:root\n"
            "  udp-workers: 1\n  tcp-workers: 1\n  background-workers: 1\n"
            f"log:\n  - target: stderr\n    any: warning\ndatabase:\n  storage: {self.directory}\n"
            "policy:\n  - id: default\n    single-type-signing: on\n    algorithm: ecdsap256sha256\n"
            f"template:\n  - id: default\n    storage: {self.directory}\n    zonefile-sync: -1\n"
            f"zone:\n{''.join(zones)}"
        )
        self._start(AUTHORITY_PORT, "knotd", "-c", "knot.conf")

    def _start_resolver(self):
        keys = ["keymgr", "-c", "knot.conf", self.top, "ds"]
        until = time.monotonic() + START_MAX
        while not (anchors := subprocess.check_output(keys, cwd=self.directory, text=True).splitlines()):
            assert time.monotonic() < until, f"knotd has no key of {self.top}"
            time.sleep(0.1)
        stubs = [(name, AUTHORITY_PORT) for name in (self.top, *self.plain, *self.lost)]
        stubs += [(name, self.hole.getsockname()[1]) for name in self.silent]
        lines = [f'stub-zone:\n  name: "{name}"\n  stub-addr: 127.0.0.1@{port}\n' for name, port in stubs]
        (self.directory / "unbound.conf").write_text(
            f'server:\n  directory: "{self.directory}"\n  chroot: ""\n  username: ""\n  pidfile: ""\n  use-syslog: no\n'
            f"  interface: 127.0.0.1\n  port: {RESOLVER_PORT}\n  do-not-query-localhost: no\n  do-ip6: no\n"
            '  module-config: "validator iterator"\n  local-zone: "test." nodefault\n  num-threads: 1\n'
            + "".join(f'  trust-anchor: "{anchor}"\n' for anchor in anchors)
            + "remote-control:\n  control-enable: no\n"
            + "".join(lines)
        )
        self._start(RESOLVER_PORT, "unbound", "-d", "-c", "unbound.conf")

    def _start(self, port, *command):
        path = self.directory / f"{command[0]}.log"
        with path.open("wb") as log:
            process = subprocess.Popen(command, cwd=self.directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.processes.append(process)
        until = time.monotonic() + START_MAX
        while not answers_at(port):
            assert process.poll() is None and time.monotonic() < until, DIED.format(command[0], path.read_text())
            time.sleep(0.05)


def answers_at(port):
    """Whether a TCP connection is taken there."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            return True
    except OSError:
        return False
