"""smtpctl as it is called, with a control that the test plays."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from smtpd.imsg import TABLE
from smtpd.ipc import query
from smtpd.ipc.channel import Channel, ChannelClosed, VersionMismatch

TOP = Path(__file__).parent.parent.parent


class FakeControl:
    """`asked` is what smtpctl asks; `answers` are given one after the other: an imsg, or (imsg, descriptor), and to a
    query an Answer."""

    def __init__(self, folder):
        self.folder = folder
        self.answers, self.asked = [], []
        self.peer_id = TABLE.digest()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(folder / "smtpd.sock"))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self):
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            if word := query.maybe_receive(sock):
                self._answer_query(sock, word)
                continue
            channel = Channel(sock, TABLE, "control", "smtpctl", peer_id=self.peer_id)
            sock.setblocking(True)
            try:
                while True:
                    for imsg, _ in channel.receive():
                        self._answer(channel, imsg)
            except VersionMismatch:
                channel.send_version()
                channel.flush()
            except ChannelClosed:
                pass
            channel.close()

    def _answer_query(self, sock, word):
        self.asked.append(word)
        with sock:
            if self.answers:
                answer = self.answers.pop(0)
                query.answer(sock, answer)
                if answer.descriptor is not None:
                    os.close(answer.descriptor)

    def _answer(self, channel, imsg):
        self.asked.append(imsg)
        if not self.answers:
            raise ChannelClosed
        answer = self.answers.pop(0)
        channel.send(*answer) if isinstance(answer, tuple) else channel.send(answer)
        channel.flush()

    def run(self, *words, **more):
        return self.call("--state", str(self.folder), *words, **more)

    def call(self, *words, answers=(), **more):
        self.answers[:] = answers
        command = [sys.executable, "-m", "smtpctl", *words]
        options = {"capture_output": True, "text": True, "timeout": 20, "cwd": TOP} | more
        return subprocess.run(command, check=False, **options)

    def end(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def control(tmp_path):
    made = FakeControl(tmp_path)
    yield made
    made.end()
