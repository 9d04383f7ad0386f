"""An LMTP server that does as a test says: polite, rude, or gone in the middle."""

import os
import socket
import threading
import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Server:
    """Answers of RCPT and of the final dot by recipient; what else it does by `closes`:

    quit       closes at QUIT, without an answer
    used       closes after each mail, without a word
    mail       closes when MAIL comes on a connection that has carried one
    dot        closes after the final dot of a mail, before any answer
    deaf       does not answer any more after the final dot
    half       closes after the first of the answers
    content    closes in the middle of the content, after a 421
    """

    family: int = socket.AF_INET
    address: object = ("127.0.0.1", 0)
    accepts: dict = field(default_factory=dict)
    answers: dict = field(default_factory=dict)
    closes: str = "quit"
    extensions: tuple = ("PIPELINING", "8BITMIME", "SIZE")
    limit: int = 1000  # connections at a time; the others are refused
    drips: float = 0.0  # seconds between the lines of an answer to the mail
    holds: dict = field(default_factory=dict)  # recipient -> an event that the answer to its mail waits for
    barrier: threading.Barrier | None = None  # met by each mail before it is answered

    def __post_init__(self):
        self.mails = []  # (number of the connection, sender, recipients, content)
        self.senders = []  # what was said of each mail, behind MAIL FROM:
        self.connections = 0
        self.open = 0
        self.ended = threading.Semaphore(0)  # released by each connection that ended with QUIT
        self._lock = threading.Lock()
        self._listener = socket.socket(self.family, socket.SOCK_STREAM)
        self._listener.bind(self.address)
        self._listener.listen(16)
        if self.family == socket.AF_UNIX:
            os.chmod(self.address, 0o666)
            self.target = self.address
        else:
            self.target = "{}:{}".format(*self._listener.getsockname())
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def by_recipient(self):
        found = defaultdict(list)
        for _, _, recipients, content in self.mails:
            for recipient in recipients:
                found[recipient].append(content)
        return found

    def _accept(self):
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                self.open += 1
                talk = self._serve if self.open <= self.limit else self._refuse
            threading.Thread(target=talk, args=(peer, self.connections), daemon=True).start()

    def _refuse(self, peer, _number):
        with peer:
            peer.sendall(b"421 4.3.2 too many connections\r\n")
        with self._lock:
            self.open -= 1

    def _serve(self, peer, number):
        if self.family == socket.AF_INET:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            with peer, peer.makefile("rwb") as file:
                self._talk(file, number)
        except (OSError, ValueError):
            pass
        with self._lock:
            self.open -= 1

    def _talk(self, file, number):
        def say(text):
            file.write(text.encode() + b"\r\n")
            file.flush()

        carried, sender, recipients = 0, None, []
        say("220 test")
        while line := file.readline():
            verb = line[:4].upper()
            assert line.endswith(b"\r\n"), line
            if verb == b"LHLO":
                say("\r\n".join(["250-test", *(f"250-{name}" for name in self.extensions), "250 ENHANCEDSTATUSCODES"]))
            elif verb == b"MAIL":
                if carried and self.closes == "mail":
                    return
                sender, recipients = path(line), []
                self.senders.append(line.decode().partition(":")[2].strip())
                say("250 2.1.0 ok")
            elif verb == b"RCPT":
                answer = self.accepts.get(path(line), "250 2.1.5 ok")
                if answer.startswith("2"):
                    recipients.append(path(line))
                say(answer)
            elif verb == b"DATA":
                if not recipients:  # RFC 2033 4.2
                    say("503 5.5.1 no recipient")
                    continue
                say("354 go")
                if self.closes == "content":
                    file.read(1000)
                    say("421 4.3.0 out of paper")
                    return
                content = read_content(file)
                for recipient in recipients:
                    if recipient in self.holds:
                        self.holds[recipient].wait(30)
                if self.barrier:
                    self.barrier.wait(30)
                with self._lock:
                    self.mails.append((number, sender, recipients, content))
                if self.closes == "dot":
                    return
                if self.closes == "deaf":
                    file.read()
                    return
                for recipient in recipients:
                    for line in self.answers.get(recipient, f"250 2.0.0 {recipient} saved").split("\r\n"):
                        say(line)
                        time.sleep(self.drips)
                    if self.closes == "half":
                        return
                carried += 1
                if self.closes == "used":
                    return
            elif verb == b"RSET":
                say("250 2.0.0 ok")
            elif verb == b"QUIT":
                self.ended.release()
                return
            else:
                say("500 5.5.1 what?")


@contextmanager
def serving():
    """Makes servers, with the arguments of Server; all of them are stopped in the end."""
    servers = []

    def serve(**more):
        servers.append(Server(**more))
        return servers[-1]

    try:
        yield serve
    finally:
        for server in servers:
            server.stop()


def path(line):
    return line.decode().partition("<")[2].rpartition(">")[0]


def read_content(file):
    lines = []
    while (line := file.readline()) != b".\r\n":
        if not line.endswith(b"\n"):
            raise OSError("the connection ended")
        assert line.endswith(b"\r\n"), "a bare LF"
        lines.append(line.removeprefix(b"."))
    return b"".join(lines)
