"""Client connections to an LMTP server: the client of smtpd/smtp/client_lmtp.py on a blocking socket.

    resolve("mx:24")            -> addresses           host, host:port, [address]:port, or the /path of a socket
    connect(addresses, name)    -> LmtpConnection      to the first server that accepts our greeting
      .deliver(mail, content)   -> a result for each recipient

Blocking calls with timeouts, one thread per connection.  Only `resolve` uses the name service.

What to do when a connection fails is the caller's decision; `may_be_repeated` says whether the mail can have been
delivered.
"""

import errno
import re
import socket
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from smtpd.errand import TRANSACTION_MAX
from smtpd.ipc.os_error import describe_error
from smtpd.smtp.action import Say
from smtpd.smtp.client_action import ClientAction, ClientMail, End, ReadContent, RecipientResult
from smtpd.smtp.client_lmtp import LmtpClient
from smtpd.smtp.client_state import REPLY_TIMEOUT, ClientState

DEFAULT_PORT = 25  # as in OpenSMTPD
CONNECT_TIMEOUT = 30.0  # seconds
TRANSACTION_TOO_LONG = f"it has taken {TRANSACTION_MAX:.0f} seconds"
# Seconds for each reply.  A delivery has no more time than a command: queue waits for it.
LMTP_TIMEOUT = {**REPLY_TIMEOUT, ClientState.DOT: 300.0}
_PIECE = 64 * 1024

_BETWEEN_MAILS = (ClientState.READY, ClientState.QUIT, ClientState.OVER)
_DESTINATION = re.compile(r"(?:\[(?P<literal>[^\[\]]+)\]|(?P<host>[^:\[\]]+))(?::(?P<port>[0-9]{1,5}))?", re.ASCII)


Progress = Callable[[], None]
Content = Callable[[], Iterable[bytes]]  # reads it from its beginning


def _nothing() -> None:
    pass


class Unreachable(Exception):
    """No address has a server that takes mail now; the text has the reason for each address."""


class ServerAddress(NamedTuple):
    family: int
    address: str | tuple[str, int] | tuple[str, int, int, int]
    text: str  # for the log


def resolve(destination: str) -> list[ServerAddress]:
    """At least one address.  Raises ValueError for a malformed destination, OSError if a name cannot be resolved."""
    if destination.startswith("/"):
        return [ServerAddress(socket.AF_UNIX, destination, destination)]
    found = _DESTINATION.fullmatch(destination)
    port = int(found["port"] or DEFAULT_PORT) if found else 0
    if not found or not 0 < port < 65536:
        raise ValueError(f"neither host:port nor the path of a socket: {destination!r}")
    try:
        answers = socket.getaddrinfo(found["literal"] or found["host"], port, type=socket.SOCK_STREAM)
    except UnicodeError:
        raise ValueError(f"not the name of a host: {destination!r}") from None
    return [ServerAddress(family, address, _text(address)) for family, _, _, _, address in answers]  # type: ignore[arg-type]


def _text(address: tuple[object, ...]) -> str:
    host, port = str(address[0]), address[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def connect(addresses: Iterable[ServerAddress], name: str, progress: Progress = _nothing) -> "LmtpConnection":
    """Connect to the first address whose server accepts LHLO `name`.  Raises Unreachable.  `progress` is called at each
    step; between two calls passes at most the timeout of a connection or of a reply."""
    reasons = []
    for address in addresses:
        progress()
        try:
            connected = _connected(address)
        except OSError as error:
            reasons.append(f"{address.text}: {describe_error(error)}")
            continue
        progress()
        connection = LmtpConnection(connected, name, progress)
        if connection.is_ready:
            return connection
        reasons.append(f"{address.text}: {connection.reason}")
    raise Unreachable("; ".join(reasons))


def _connected(address: ServerAddress) -> socket.socket:
    """Raises OSError, also if the kernel lacks this address family."""
    made = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        made.settimeout(CONNECT_TIMEOUT)
        made.connect(address.address)
        if address.family != socket.AF_UNIX:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        made.close()
        raise
    return made


class LmtpConnection:
    """A connection to one server, for several mails.

    mails             number of mails sent over it
    may_be_repeated   the last mail cannot have been delivered
    timed_out         the last failure was a timeout
    reason            why the connection cannot be used any more
    """

    def __init__(self, connected: socket.socket, name: str, progress: Progress = _nothing):
        self.mails = 0
        self.may_be_repeated = True
        self.timed_out = False
        self.reason = ""
        self._client = LmtpClient(name, time.monotonic(), LMTP_TIMEOUT)
        self._results: list[RecipientResult] = []
        self._content: Content = tuple
        self._socket = connected
        self._progress = progress
        self._deadline = time.monotonic() + TRANSACTION_MAX
        self._receive_replies()
        self._progress = _nothing

    @property
    def is_ready(self) -> bool:
        return self._client.state is ClientState.READY

    @property
    def takes_utf8(self) -> bool:
        """The server has SMTPUTF8 (RFC 6531)."""
        return self._client.extensions.has("SMTPUTF8")

    def is_idle(self) -> bool:
        """False if the server has closed the connection or sent anything: that can only announce a close."""
        try:
            self._socket.settimeout(0)
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def deliver(self, mail: ClientMail, content: Content, progress: Progress = _nothing) -> list[RecipientResult]:
        """Send a mail: a result for each recipient.  `content` is called for each transaction that the server wants; an
        OSError while its pieces are read closes the connection.  `progress` is called at each step of the server;
        between two calls passes at most the timeout of one step."""
        self.mails += 1
        self._progress = progress
        self._deadline = time.monotonic() + TRANSACTION_MAX
        self.may_be_repeated = True
        self._results, self._content = [], content
        try:
            self._execute(self._client.begin(mail, time.monotonic(), date=0))  # LMTP has no parameter with a time
            self._receive_replies()
        except BaseException:
            self._fail("given up")
            raise
        finally:
            self._progress = _nothing  # later replies belong to no mail
        return self._results

    def close(self) -> None:
        """Send QUIT if the session allows it, and do not wait for the reply: each mail has had its results."""
        self._execute(self._client.quit(time.monotonic()))
        self._socket.close()

    def _receive_replies(self) -> None:
        """Receive until the session is ready or over.  A reply has one timeout, however many pieces it comes in; all
        replies together have TRANSACTION_MAX."""
        while self._client.state not in _BETWEEN_MAILS:
            deadline = self._client.deadline
            assert deadline is not None
            try:
                self._socket.settimeout(max(0.001, min(deadline, self._deadline) - time.monotonic()))
                data = self._socket.recv(_PIECE)
            except TimeoutError:
                self.timed_out = True
                if self._has_time:
                    self._execute(self._client.tick(max(deadline, time.monotonic())))
                else:
                    self._fail(TRANSACTION_TOO_LONG)
            except OSError as error:
                self._fail(describe_error(error))
            else:
                if data:
                    self._execute(self._client.receive(data, time.monotonic()))
                else:
                    self._fail("the server closed the connection")
                if self._client.deadline != deadline:  # a reply is complete
                    self._progress()

    @property
    def _has_time(self) -> bool:
        return time.monotonic() < self._deadline

    def _execute(self, actions: list[ClientAction]) -> None:
        for action in actions:
            match action:
                case Say(data):
                    self._send(data)
                case ReadContent():
                    self.may_be_repeated = False
                    self._send_content()
                case RecipientResult():
                    self._results.append(action)
                case End():
                    self.reason = action.text
                    self._socket.close()

    def _send_content(self) -> None:
        try:
            for piece in self._content():
                self._execute(self._client.content(piece, time.monotonic()))
                if not self._client.wants:  # the connection is lost
                    return
        except OSError as error:
            self._execute(self._client.content_failed(describe_error(error), time.monotonic()))
        else:
            self._execute(self._client.content_end(time.monotonic()))
            self._execute(self._client.written(time.monotonic()))  # unless it could not be written

    def _send(self, data: bytes) -> None:
        try:
            if not self._has_time:
                raise TimeoutError(errno.ETIMEDOUT, TRANSACTION_TOO_LONG)
            self._socket.settimeout(LMTP_TIMEOUT[ClientState.CONTENT])
            self._socket.sendall(data)
            self._progress()
        except OSError as error:
            self._read_last_reply()
            self._fail(describe_error(error))

    def _read_last_reply(self) -> None:
        """Read what the server sent before it closed: often the reason."""
        try:
            self._socket.settimeout(0)
            data = self._socket.recv(_PIECE)
        except OSError:
            return
        self._execute(self._client.receive(data, time.monotonic()))

    def _fail(self, reason: str) -> None:
        self._execute(self._client.lost(reason, time.monotonic()))
