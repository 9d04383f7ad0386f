"""What makes random bytes look like a client: words put in whole, lines moved about, chunks with the right length."""

from collections.abc import Callable
from random import Random


class Mutator:
    """`elsewise`: libFuzzer's own mutation, (data, longest) -> data."""

    def __init__(self, words: tuple[bytes, ...], elsewise: Callable[[bytes, int], bytes]):
        self._words, self._elsewise, self._random = words, elsewise, Random()
        self._ways = [self._put_in, self._repeat, self._leave_out, self._swap]
        if any(word.startswith(b"BDAT") for word in words):
            self._ways.append(self._put_in_chunk)

    def mutate(self, data: bytes, longest: int, seed: int) -> bytes:
        self._random.seed(seed)
        if self._random.random() < 0.5:
            return self._elsewise(data, longest)
        for _ in range(self._random.choice((1, 1, 1, 2, 3))):
            data = self._random.choice(self._ways)(data)
        return data[:longest]

    def _put_in(self, data: bytes) -> bytes:
        at = self._random.choice((self._place(data), self._line_start(data)))
        return data[:at] + self._random.choice(self._words) + data[at:]

    def _put_in_chunk(self, data: bytes) -> bytes:
        at, end = self._line_start(data), self._line_start(data)
        chunk = data[at:end] or self._random.choice(self._words)
        last = self._random.choice((b"", b" LAST"))
        return b"%bBDAT %d%b\r\n%b%b" % (data[:at], len(chunk), last, chunk, data[max(at, end) :])

    def _repeat(self, data: bytes) -> bytes:
        at, line = self._line_start(data), self._line(data)
        return data[:at] + line + data[at:]

    def _leave_out(self, data: bytes) -> bytes:
        line = self._line(data)
        return data.replace(line, b"", 1) if line else data

    def _swap(self, data: bytes) -> bytes:
        lines = data.splitlines(keepends=True)
        if len(lines) > 1:
            one, other = self._random.randrange(len(lines)), self._random.randrange(len(lines))
            lines[one], lines[other] = lines[other], lines[one]
        return b"".join(lines)

    def _place(self, data: bytes) -> int:
        return self._random.randint(0, len(data))

    def _line_start(self, data: bytes) -> int:
        return data.find(b"\n", self._place(data)) + 1 or len(data)

    def _line(self, data: bytes) -> bytes:
        lines = data.splitlines(keepends=True)
        return self._random.choice(lines) if lines else b""
