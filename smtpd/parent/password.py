"""CheckPassword: is this the password of that user of the system?  A fresh process asks PAM, each time.

    lookup --CheckPassword--> in line --ForkPassword--> nursery --fork, exec--> smtpd -x password
                                  |---------------------TryPassword------------>|
    lookup <--PasswordChecked-----+<--------------------PasswordTried-----------+

Four at a time, one of a user.  After a failure that user's next one waits: 1 s, 2, 4 … 16, until a password was right
or ten minutes have passed.  So an attacker in lookup guesses no faster than that.  A request that has waited too long
is answered "later"; no verdict is remembered.

An address from which a password of the user was right has a queue of its own, and waits for its own failures only: else
any client could keep a user out by guessing.  A user has so many of them at the most, and guessing gets as much faster.
"""

import socket
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from smtpd.imsg import TABLE, CheckPassword, ForkPassword, PasswordChecked, TryPassword
from smtpd.ipc.channel import Channel, Violation
from smtpd.ipc.channel_set import ChannelSet
from smtpd.ipc.event_loop import Cancellable
from smtpd.ipc.log import log
from smtpd.parent.privileged_request import PRIVILEGED_REQUESTS, check_allowed
from smtpd.parent.user import Users
from smtpd.slice import USER_NAME, ParentSlice

VERDICTS = ("yes", "no", "later")
WAITING_OF_USER = 4  # more of one user are answered "later"
PROCESS_TIMEOUT = 16.0  # seconds for one process; the nursery kills it a moment before
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 16.0  # seconds
FAILURE_LIFETIME = 600.0  # seconds after which a failure counts no more
FAILURES_MAX = 4096  # sources
KNOWN_ADDRESSES_MAX = 4  # addresses, the last ones
KNOWN_USERS_MAX = 4096  # users

Source = tuple[str, str]  # a user, and an address that is known; or empty: all others


@dataclass(eq=False)
class Check:
    """One question, from lookup's imsg to our answer."""

    asker: Channel
    request: int
    user: str
    password: str = field(repr=False)
    address: str
    source: Source
    timer: Cancellable | None = None
    judged: bool = False  # the user may log in, or does not exist
    process: Channel | None = None  # None: in line


class Passwords:
    def __init__(self, channels: ChannelSet, nursery: Channel, users: Users, configuration: ParentSlice):
        self._channels, self._loop = channels, channels.loop
        self._nursery = nursery
        self._users = users
        self._configuration = configuration
        self._limits = PRIVILEGED_REQUESTS[CheckPassword]
        self._checks: list[Check] = []
        self._failures: OrderedDict[Source, tuple[int, float]] = OrderedDict()  # how many in a row, the last when
        self._resting: set[Source] = set()
        self._known: OrderedDict[str, tuple[str, ...]] = OrderedDict()  # user -> addresses, the last one first

    def check_password(self, channel: Channel, imsg: CheckPassword) -> None:
        check_allowed(self._configuration, channel, imsg)
        source = imsg.user, imsg.address if imsg.address in self._known.get(imsg.user, ()) else ""
        in_line = sum(check.source == source for check in self._checks)
        if not USER_NAME.fullmatch(imsg.user):
            channel.send(PasswordChecked(imsg.request, "no"))
        elif in_line >= WAITING_OF_USER or len(self._checks) >= self._limits.waiting:
            channel.send(PasswordChecked(imsg.request, "later"))
        else:
            check = Check(channel, imsg.request, imsg.user, imsg.password, imsg.address, source)
            self._wait(check, self._limits.deadline, partial(self._answer, check, "later"))
            self._checks.append(check)
            self._users.find(imsg.user, partial(self._judged, check))

    def _judged(self, check: Check, verdict: str) -> None:
        """An unknown user is tried like any other: the time until the answer is not to tell them apart."""
        if check not in self._checks:
            return
        if verdict in ("user", "unknown"):
            check.judged = True
            self._proceed()
        else:
            self._answer(check, "later" if verdict == "later" else "no")

    def _proceed(self) -> None:
        while (check := self._maybe_next()) is not None:
            self._try(check)

    def _maybe_next(self) -> Check | None:
        busy = {check.source for check in self._checks if check.process is not None}
        if len(busy) >= self._limits.at_once:
            return None
        busy |= self._resting
        return next((check for check in self._checks if check.judged and check.source not in busy), None)

    def _try(self, check: Check) -> None:
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            log.warn(f"password of {check.user}: {error.strerror}")
            self._answer(check, "later")
            return
        self._nursery.send(ForkPassword(), theirs.detach())
        check.process = Channel(ours, TABLE, "parent", "password")
        self._channels.add(check.process, partial(self._tried, check), partial(self._gone, check))
        check.process.send(TryPassword(check.user, check.password, check.address))
        self._wait(check, PROCESS_TIMEOUT, partial(self._gone, check))

    def _tried(self, check: Check, _channel: Channel, imsg: Any, _descriptor: int | None) -> None:
        """PasswordTried: there is no other arrow."""
        if imsg.verdict not in VERDICTS:
            raise Violation("no verdict")
        if imsg.verdict == "later":
            log.warn(f"password of {check.user}: {imsg.reason}")
        else:
            log.debug(f"password of {check.user}: {', '.join(filter(None, (imsg.verdict, imsg.reason)))}")
        self._count(check, imsg.verdict)
        self._answer(check, imsg.verdict)

    def _gone(self, check: Check, _channel: Channel | None = None, _error: Exception | None = None) -> None:
        """It died, is silent, or broke the protocol: only this login fails."""
        log.warn(f"password of {check.user}: the process that asks PAM gave no answer")
        self._answer(check, "later")

    def _wait(self, check: Check, seconds: float, late: Callable[[], None]) -> None:
        if check.timer is not None:
            check.timer.cancel()
        check.timer = self._loop.call_later(seconds, late)

    def _answer(self, check: Check, verdict: str) -> None:
        if check not in self._checks:
            return
        self._checks.remove(check)
        if check.timer is not None:
            check.timer.cancel()
        if check.process is not None:
            self._channels.remove(check.process)
        if not check.asker.closed:
            check.asker.send(PasswordChecked(check.request, verdict))
        self._proceed()

    # -- pauses after failures -----------------------------------------------------------

    def _count(self, check: Check, verdict: str) -> None:
        if verdict == "yes":
            self._failures.pop(check.source, None)
            self._know(check.user, check.address)
        if verdict != "no":
            return
        source, now = check.source, time.monotonic()
        count, last = self._failures.get(source, (0, now))
        count = count + 1 if now - last < FAILURE_LIFETIME else 1
        self._failures[source] = (count, now)
        self._failures.move_to_end(source)
        if len(self._failures) > FAILURES_MAX:
            self._failures.popitem(last=False)
        self._resting.add(source)
        self._loop.call_later(min(FIRST_PAUSE * 2 ** min(count - 1, 10), LONGEST_PAUSE), partial(self._rested, source))

    def _know(self, user: str, address: str) -> None:
        others = (known for known in self._known.pop(user, ()) if known != address)
        self._known[user] = (address, *others)[:KNOWN_ADDRESSES_MAX]
        if len(self._known) > KNOWN_USERS_MAX:
            self._known.popitem(last=False)

    def _rested(self, source: Source) -> None:
        self._resting.discard(source)
        self._proceed()
