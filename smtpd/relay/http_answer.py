"""The answer to one HTTP request, without I/O: a text of a bounded size, or the reason why there is none.  RFC 9112.

    feed(data), again and again --> done: the body
    end(complete)                   the server has ended the connection; `complete`: it has said so (close_notify)

    HTTP/1.1 200 OK                       anything but 200 is a failure, and a redirect is not followed
    Content-Type: text/plain              nothing else
    Content-Length: 123                   or Transfer-Encoding: chunked; with neither, the body ends with the connection

Made for the policies of RFC 8461 3.3.  Everything comes from any host of the network.  All that is not body (lines,
fields, sizes of chunks, trailers, interim answers) has one limit, OVERHEAD_MAX.  Not understood: content codings,
folded lines, a second answer behind the first.
"""

from collections.abc import Callable
from enum import Enum

OVERHEAD_MAX = 32 * 1024  # bytes that are not body
LINE_MAX = 8 * 1024  # bytes
_DIGITS, _HEX_DIGITS = frozenset(b"0123456789"), frozenset(b"0123456789abcdefABCDEF")
_TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")  # RFC 9110 5.6.2
_ONCE = (b"content-length", b"transfer-encoding", b"content-type", b"content-encoding")  # fields that are read


class HttpError(Exception):
    """No usable answer; the argument says why."""


class State(Enum):
    STATUS = "waiting for the status line"
    HEADER = "in the header"
    COUNTED = "in a body of known length"
    CHUNK_SIZE = "waiting for the size of a chunk"
    CHUNK = "in a chunk"
    CHUNK_END = "at the end of a chunk"
    TRAILER = "behind the last chunk"
    UNTIL_END = "in a body that ends with the connection"
    DONE = "complete"


class HttpAnswer:
    def __init__(self, media_type: str, size_max: int):
        """`size_max`: bytes of the body."""
        self._media_type, self._size_max = media_type.encode(), size_max
        self._state = State.STATUS
        self._data = bytearray()
        self._overhead = 0
        self._interim = False  # this is not the final answer
        self._fields: dict[bytes, bytes] = {}
        self._left = 0  # bytes of the body or of the chunk
        self._body = bytearray()

    @property
    def done(self) -> bool:
        return self._state is State.DONE

    @property
    def body(self) -> bytes:
        return bytes(self._body)

    def feed(self, data: bytes) -> None:
        """Raises HttpError.  What comes behind the answer is not looked at."""
        self._data += data
        while not self.done and self._step():
            pass

    def end(self, complete: bool) -> None:
        """Raises HttpError unless the answer is complete.  RFC 9112 8: a body that ends with the connection is
        incomplete unless TLS was closed in order."""
        if self._state is State.UNTIL_END and complete:
            self._state = State.DONE
        if not self.done:
            raise HttpError(f"the server has ended the connection: {self._state.value}")

    def _step(self) -> bool:
        """False: there is nothing to do without more data."""
        if self._state in (State.COUNTED, State.CHUNK, State.UNTIL_END):
            return self._take_body()
        line = self._take_line()
        if line is None:
            return False
        _LINES[self._state](self, line)
        return True

    def _take_line(self) -> bytes | None:
        end = self._data.find(b"\n")
        length = end + 1 or len(self._data)
        if length > LINE_MAX:
            raise HttpError("a line is too long")
        if self._overhead + length > OVERHEAD_MAX:
            raise HttpError("header or chunks are too long")
        if end < 0:
            return None
        line = bytes(self._data[:end]).removesuffix(b"\r")
        del self._data[:length]
        self._overhead += length
        if b"\r" in line or b"\0" in line:
            raise HttpError("a line holds what none may hold")
        return line

    def _take_body(self) -> bool:
        if self._state is State.UNTIL_END:
            taken = len(self._data)
        else:
            taken = min(len(self._data), self._left)
            self._left -= taken
        if len(self._body) + taken > self._size_max:
            raise HttpError(f"body is longer than {self._size_max} bytes")
        self._body += self._data[:taken]
        del self._data[:taken]
        if self._left or self._state is State.UNTIL_END:
            return False
        self._state = State.CHUNK_END if self._state is State.CHUNK else State.DONE
        return True

    # -- line by line -----------------------------------------------------------------------

    def _status(self, line: bytes) -> None:
        """RFC 9112 4."""
        version, _, rest = line.partition(b" ")
        code, _, _ = rest.partition(b" ")
        if version not in (b"HTTP/1.1", b"HTTP/1.0") or len(code) != 3 or not _DIGITS.issuperset(code):
            raise HttpError("not an HTTP answer")
        self._interim = code.startswith(b"1") and code != b"101"  # RFC 9110 15.2
        if code != b"200" and not self._interim:
            raise HttpError(f"status {code.decode()}")  # RFC 8461 3.3: no redirects
        self._fields.clear()
        self._state = State.HEADER

    def _header(self, line: bytes) -> None:
        if line:
            self._field(line)
        elif self._interim:
            self._state = State.STATUS
        else:
            self._begin_body()

    def _field(self, line: bytes) -> None:
        """RFC 9112 5."""
        name, colon, value = line.partition(b":")
        if not colon or not name or not _TOKEN.issuperset(name):
            raise HttpError("a header field is malformed")
        name = name.lower()
        if name not in _ONCE:
            return
        if name in self._fields:
            raise HttpError(f"duplicate header field {name.decode()}")
        self._fields[name] = value.strip(b" \t").lower()

    def _begin_body(self) -> None:
        media_type, _, _ = self._fields.get(b"content-type", b"").partition(b";")
        if media_type.strip(b" \t") != self._media_type:  # RFC 8461 3.2
            raise HttpError(f"media type is not {self._media_type.decode()}")
        if self._fields.get(b"content-encoding", b"identity") != b"identity":
            raise HttpError("body is encoded")
        length, coding = self._fields.get(b"content-length"), self._fields.get(b"transfer-encoding")
        if coding is not None:
            if coding != b"chunked" or length is not None:  # RFC 9112 6.1
                raise HttpError("unknown transfer coding")
            self._state = State.CHUNK_SIZE
        elif length is not None:
            self._expect(length, 10, _DIGITS)
            self._state = State.COUNTED if self._left else State.DONE
        else:
            self._state = State.UNTIL_END

    def _expect(self, number: bytes, base: int, digits: frozenset[int]) -> None:
        """So many bytes come next."""
        if not number or len(number) > 16 or not digits.issuperset(number):
            raise HttpError("a length is malformed")
        self._left = int(number, base)
        if len(self._body) + self._left > self._size_max:
            raise HttpError(f"body is longer than {self._size_max} bytes")

    def _chunk_size(self, line: bytes) -> None:
        """RFC 9112 7.1; extensions mean nothing to us."""
        size, _, _ = line.partition(b";")
        self._expect(size.strip(b" \t"), 16, _HEX_DIGITS)
        self._state = State.CHUNK if self._left else State.TRAILER

    def _chunk_end(self, line: bytes) -> None:
        if line:
            raise HttpError("a chunk is longer than its size")
        self._state = State.CHUNK_SIZE

    def _trailer(self, line: bytes) -> None:
        if not line:
            self._state = State.DONE


_LINES: dict[State, Callable[[HttpAnswer, bytes], None]] = {
    State.STATUS: HttpAnswer._status,
    State.HEADER: HttpAnswer._header,
    State.CHUNK_SIZE: HttpAnswer._chunk_size,
    State.CHUNK_END: HttpAnswer._chunk_end,
    State.TRAILER: HttpAnswer._trailer,
}
