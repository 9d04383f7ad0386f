"""The other end of a session: says what a test wants, keeps what sendmail says."""

import socket
import threading

from smtpd.ipc.query import Answer

EHLO = "250-mx.test\r\n250-8BITMIME\r\n250-SIZE 1000000\r\n250-DSN\r\n250 SMTPUTF8"
ANSWERS = {"EHLO": EHLO, "MAIL": "250 ok", "RCPT": "250 ok", "DATA": "354 go", ".": "250 taken", "QUIT": "221 bye"}


class Server:
    """`answers`: command, or the beginning of one, -> reply; an empty one closes.  "" is the greeting, "." what ends
    the content."""

    def __init__(self, answers):
        self.answers = {"": "220 mx.test", **ANSWERS, **answers}
        self.said, self.content = [], bytearray()
        self._sock, self.sock = socket.socketpair()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    @property
    def opened(self):
        """What control answers."""
        return Answer(True, "", self.sock.detach())

    def _serve(self):
        with self._sock, self._sock.makefile("rb") as lines:
            if not self._say(""):
                return
            for line in lines:
                command = line.decode().removesuffix("\r\n")
                self.said.append(command)
                if not self._say(command) or command == "QUIT":
                    return
                if command == "DATA" and self.answers["DATA"].startswith("354"):
                    while (line := lines.readline()) not in (b".\r\n", b""):
                        self.content += line
                    if not line or not self._say("."):
                        return

    def _say(self, command):
        found = max((key for key in self.answers if command.startswith(key)), key=len)
        answer = self.answers[found]
        if answer:
            self._sock.sendall(answer.encode("latin-1") + b"\r\n")
        return answer

    def end(self):
        if self.sock.fileno() >= 0:
            self.sock.close()
        self._thread.join(10)
        assert not self._thread.is_alive()
