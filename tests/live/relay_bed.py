"""Other hosts of a private internet: MX hosts and policy hosts in a network of their own, beside that of the daemon.

    network of the daemon                      network of the others
    198.51.100.1, 2001:db8:1::1   <--cable-->  198.51.100.10 and up: MxHost port 25, PolicyHost port 443
    DNS on 127.0.0.1 (name_servers.py)

What is in one network is no address of the other's: lookup leaves out hosts that are this one.  All servers run in one
thread, with sockets that were made in the network of the others.
"""

import asyncio
import contextlib
import itertools
import os
import socket
import subprocess
import threading

from tests.live.network import HERE, Network, ip

OURS, THEIRS = "198.51.100.1", "198.51.100"
OURS6, THEIRS6 = "2001:db8:1::1", "2001:db8:1:"
UNREACHABLE6, SILENT6 = "2001:db8:ffff::1", f"{THEIRS6}:dead"  # no route; nothing answers there


class MxHost:
    """Takes mail.  `tls`: a server's context, None: no STARTTLS; `broken`: STARTTLS is offered and does not work."""

    def __init__(self, address, tls=None, keywords=(), broken=False):
        self.address, self.tls, self.keywords, self.broken = address, tls, keywords, broken
        self.mails = []  # recipient, whether encrypted, parameters of MAIL
        self.connections = 0

    async def serve(self, reader, writer):
        self.connections += 1
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            writer.write(b"220 there ESMTP\r\n")
            while line := await reader.readline():
                verb = line.split()[0].upper().partition(b":")[0] if line.strip() else b""
                if verb == b"STARTTLS" and (self.tls or self.broken):
                    writer.write(b"220 go\r\n")
                    if self.broken:
                        writer.write(b"no TLS here\r\n")
                        break
                    await writer.start_tls(self.tls)
                    continue
                self._obey(verb, line, writer)
                if verb == b"DATA":
                    await reader.readuntil(b"\r\n.\r\n")
                    self.mails += [(to, self._encrypted(writer), self._mail) for to in self._to]
                    writer.write(b"250 2.0.0 kept\r\n")
                if verb == b"QUIT":
                    break
        writer.close()

    def _encrypted(self, writer):
        return writer.get_extra_info("ssl_object") is not None

    def _obey(self, verb, line, writer):
        reply = {b"DATA": b"354 go\r\n", b"QUIT": b"221 bye\r\n"}.get(verb, b"250 ok\r\n")
        if verb == b"EHLO":
            offered = self._encrypted(writer) or not (self.tls or self.broken)
            words = ["there", *(self.keywords if offered else ["STARTTLS"]), "8BITMIME"]
            reply = "".join(f"250-{word}\r\n" for word in words[:-1]).encode() + f"250 {words[-1]}\r\n".encode()
        elif verb == b"MAIL":
            self._mail, self._to = line.decode().strip(), []
        elif verb == b"RCPT":
            self._to.append(line.decode().partition("<")[2].partition(">")[0])
        writer.write(reply)


class PolicyHost:
    """HTTPS.  `answers`: host -> bytes; others get 404."""

    def __init__(self, address, tls):
        self.address, self.tls, self.answers, self.asked = address, tls, {}, []

    async def serve(self, reader, writer):
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            request = (await reader.readuntil(b"\r\n\r\n")).decode()
            host = request.partition("\r\nHost: ")[2].partition("\r\n")[0]
            self.asked.append(host)
            writer.write(self.answers.get(host, b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"))
            await writer.drain()
        writer.close()


def policy(mode, *mx, max_age=86_400):
    body = (
        f"version: STSv1\r\nmode: {mode}\r\n{''.join(f'mx: {name}\r\n' for name in mx)}max_age: {max_age}\r\n".encode()
    )
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(body) + body


class Others:
    """The network of the others.  Inside a Network, which is the daemon's."""

    _numbers = itertools.count(1)

    def __init__(self):
        self._network = Network()
        self._addresses = itertools.count(10)
        self._servers = []

    def __enter__(self):
        self.stack = contextlib.ExitStack()
        inside = os.open(HERE, os.O_RDONLY)
        self.stack.callback(os.close, inside)
        name = self._network.name
        subprocess.run(["ip", "netns", "add", name], check=True)
        self.stack.callback(ip, "netns", "delete", name)
        self._inside, self._far = inside, os.open(f"/run/netns/{name}", os.O_RDONLY)
        self.stack.callback(os.close, self._far)
        ip("link", "add", "eth1", "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("address", "add", f"{OURS}/24", "dev", "eth1")
        ip("address", "add", f"{OURS6}/64", "dev", "eth1", "nodad")
        ip("link", "set", "eth1", "up")
        for command in ("link set lo up", "link set eth0 up", f"address add {THEIRS}.2/24 dev eth0"):
            ip("-n", name, *command.split())
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self.stack.callback(self._end)
        return self

    def __exit__(self, *_):
        self.stack.close()

    def _end(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(20)
        for server in self._servers:
            server.close()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_until_complete(asyncio.sleep(0.05))
        self.loop.close()

    def address(self):
        """Another one of theirs, which is up."""
        address = f"{THEIRS}.{next(self._addresses)}"
        ip("-n", self._network.name, "address", "add", f"{address}/24", "dev", "eth0")
        return address

    def serve(self, host, port=25, tls=None):
        os.setns(self._far, os.CLONE_NEWNET)
        try:
            sock = socket.create_server((host.address, port), backlog=100)
        finally:
            os.setns(self._inside, os.CLONE_NEWNET)
        started = asyncio.start_server(host.serve, sock=sock, ssl=tls)
        self._servers.append(asyncio.run_coroutine_threadsafe(started, self.loop).result(20))
        return host
