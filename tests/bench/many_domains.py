"""Mail to many domains:  python -m tests.bench.many_domains PORT MESSAGES SESSIONS SIZE DOMAINS [kept]

    banner, EHLO, (MAIL, RCPT, DATA, content) once, or until all are sent (kept), QUIT       SESSIONS of these at a time

The domains have their turn, one mail each, again and again.  smtp-source numbers its recipients, but has one domain.
"""

import itertools
import socket
import sys
import threading

ZONE = "many.test"
REPLY_MAX = 60.0  # seconds
LINE = b"X" * 78 + b"\r\n"


def domain(number):
    return f"d{number}.{ZONE}"


class Sender:
    def __init__(self, port, messages, sessions, size, domains, kept):
        self._port, self._sessions, self._domains, self._kept = port, sessions, domains, kept
        self._numbers = iter(range(messages))
        self._lock = threading.Lock()
        self._content = b"Subject: many\r\n\r\n" + LINE * max(1, size // len(LINE)) + b".\r\n"
        self.complaint = ""

    def run(self):
        threads = [threading.Thread(target=self._run_session) for _ in range(self._sessions)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _next(self):
        with self._lock:
            return None if self.complaint else next(self._numbers, None)

    def _run_session(self):
        try:
            while (number := self._next()) is not None:
                self._connect(number)
        except (OSError, EOFError) as error:
            self.complaint = self.complaint or str(error)

    def _connect(self, first):
        later = iter(self._next, None) if self._kept else ()
        with socket.create_connection(("127.0.0.1", self._port), REPLY_MAX) as sock, sock.makefile("rb") as replies:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            expect(replies, b"220")
            ask(sock, replies, b"EHLO load.test\r\n", b"250")
            for number in itertools.chain([first], later):
                recipient = f"RCPT TO:<{number}@{domain(number % self._domains)}>\r\n".encode()
                ask(sock, replies, b"MAIL FROM:<amy@there.test>\r\n", b"250")
                ask(sock, replies, recipient, b"250")
                ask(sock, replies, b"DATA\r\n", b"354")
                ask(sock, replies, self._content, b"250")
            ask(sock, replies, b"QUIT\r\n", b"221")


def ask(sock, replies, line, code):
    sock.sendall(line)
    expect(replies, code)


def expect(replies, code):
    """A whole reply."""
    while True:
        line = replies.readline()
        if not line.startswith(code):
            raise EOFError(f"{line!r} for {code!r}")
        if line[3:4] != b"-":
            return


def main(port, messages, sessions, size, domains, *kept):
    sender = Sender(*map(int, (port, messages, sessions, size, domains)), bool(kept))
    sender.run()
    return sender.complaint or 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
