"""Mail that was kept while the daemon did not run: found, handed in by the nursery, and removed after its 250.

    list, 2000 entries at a time --> waiting, by owner --SubmitOffline--> nursery
     ^ ^                                               <--OfflineSubmitted--
     | +-- 60 s after the last entry                   sent      removed
     +---- when all that waited has had its turn,      later     found again by the next listing
           and there was more                          refused   the third time set aside: NAME.refused

Any user may make files here, as many as the disk takes, of any name, kind and size.  So a listing is never in memory as
a whole: it goes on where it was, and of each owner FILES_PER_OWNER_MAX files and BYTES_PER_OWNER_MAX bytes are
remembered; the rest is found later.  Owners take turns, with one mail at a time each, and a refusal ends the turns of
its owner until the next listing.  What sendmail cannot have made is counted, and left alone.

No file is opened.  Every system call is a thread's; a mail may come twice if the daemon is killed between its 250 and
its removal.
"""

import os
import re
import stat
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from smtpd.imsg import OfflineSubmitted, SubmitOffline
from smtpd.ipc.channel import Channel, Violation
from smtpd.ipc.log import log
from smtpd.ipc.os_error import describe_error
from smtpd.ipc.selector_loop import SelectorLoop, Timer
from smtpd.parent.blocking_call import BlockingCalls

LIST_INTERVAL = 60.0  # seconds from the end of a listing to the next one
LIST_PAUSE = 0.2  # seconds between two pieces of a listing
LISTED_MAX = 2000  # entries of one piece
OWNERS_MAX = 1000  # whose files wait
FILES_PER_OWNER_MAX = 100  # that wait
BYTES_PER_OWNER_MAX = 1024 * 1024 * 1024  # of these together; a larger file is set aside
AT_ONCE = 4  # mails that are being handed in
ATTEMPTS_MAX = 3  # of a mail that is refused
REFUSALS_MAX = 10_000  # files whose refusals are remembered
UNFINISHED_AGE = 24 * 3600.0  # seconds after which what a sendmail has not finished is removed
END_TIMEOUT = 2.0  # seconds that the end of the daemon waits for the thread

NAME = re.compile(r"[0-9a-f]{32}", re.ASCII)
UNFINISHED = re.compile(r"[0-9a-f]{32}\.tmp", re.ASCII)
REFUSED = re.compile(r"[0-9a-f]{32}\.refused", re.ASCII)


@dataclass(frozen=True)
class KeptMail:
    """A file that looks like one of sendmail's."""

    name: str
    owner: int
    size: int
    inode: int


@dataclass
class Listed:
    """A piece of a listing."""

    mails: list[KeptMail]
    entries: int = 0
    refused: int = 0  # set aside, now or by a daemon before this one
    others: int = 0  # neither mail nor a part of it


class OfflineMails:
    """`directory`: open, None where mail is not kept; `path` is its name, for the log."""

    def __init__(self, loop: SelectorLoop, nursery: Channel, directory: int | None, path: str):
        self._loop, self._nursery = loop, nursery
        self._directory, self._path = directory, path
        self._worker = BlockingCalls(loop)
        self._entries: Iterator[os.DirEntry[str]] | None = None  # used by the thread only
        self._waiting: dict[int, deque[KeptMail]] = {}  # by owner, the next one first
        self._asked: dict[int, KeptMail] = {}
        self._removing: set[str] = set()  # names of mails that were sent: never handed in again
        self._refusals: dict[str, int] = {}
        self._found = Listed([])  # all of the listing under way, without its mails
        self._told: tuple[int, int] = (0, 0)
        self._more = False  # files that had to be left for the next listing
        self._is_listing = False  # there is a further piece
        self._timer: Timer | None = None  # until the next piece; None while one is read
        self._last = 0
        self._stopping = False

    def begin(self) -> None:
        self._timer = None
        if self._directory is not None and not self._stopping:
            self._worker.do(self._list, self._listed)

    def _begin_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self.begin)

    def stop(self) -> None:
        self._stopping = True

    def close(self) -> None:
        self._worker.end(END_TIMEOUT)

    # -- list --------------------------------------------------------------------------------

    def _list(self) -> Listed:
        """The next piece; in the thread."""
        assert self._directory is not None
        if self._entries is None:
            self._entries = os.scandir(self._directory)
        listed = Listed([])
        for entry in self._entries:
            listed.entries += 1
            _look_at(self._directory, entry.name, listed)
            if listed.entries == LISTED_MAX:
                return listed
        self._entries = None
        return listed

    def _listed(self, outcome: Listed | Exception) -> None:
        if isinstance(outcome, Exception):
            self._entries = None
            self._warn(f"cannot be listed: {describe_error(outcome)}")
            self._begin_in(LIST_INTERVAL)
            return
        for mail in outcome.mails:
            self._remember(mail)
        self._found.refused += outcome.refused
        self._found.others += outcome.others
        self._is_listing = outcome.entries == LISTED_MAX
        if self._is_listing:
            self._begin_in(LIST_PAUSE)
        else:
            self._begin_in(LIST_INTERVAL)
            self._end_of_listing()
        self._proceed()

    def _end_of_listing(self) -> None:
        found, self._found = self._found, Listed([])
        if (found.refused, found.others) == self._told:
            return
        self._told = (found.refused, found.others)
        if found.refused:
            self._warn(f"{found.refused} refused mails are set aside, as *.refused")
        if found.others:
            self._warn(f"{found.others} files are no mail, and are left alone")

    def _remember(self, mail: KeptMail) -> None:
        of_owner = self._waiting.get(mail.owner)
        if mail.name in self._removing or mail in self._asked.values():
            return
        if of_owner is None:
            if len(self._waiting) >= OWNERS_MAX:
                self._more = True
                return
            of_owner = self._waiting[mail.owner] = deque()
        if any(mail.name == other.name for other in of_owner):
            return
        if mail.size > BYTES_PER_OWNER_MAX:
            self._set_aside(mail, "too large")
        elif (
            len(of_owner) >= FILES_PER_OWNER_MAX
            or sum(other.size for other in of_owner) + mail.size > BYTES_PER_OWNER_MAX
        ):
            self._more = True
        else:
            of_owner.append(mail)
        if not of_owner:
            del self._waiting[mail.owner]

    # -- hand in -----------------------------------------------------------------------------

    def _proceed(self) -> None:
        busy = {mail.owner for mail in self._asked.values()}
        for owner in [owner for owner in self._waiting if owner not in busy]:
            if len(self._asked) >= AT_ONCE or self._stopping or self._nursery.closed:
                return
            of_owner = self._waiting.pop(owner)
            mail = of_owner.popleft()
            if of_owner:
                self._waiting[owner] = of_owner  # behind all others
            self._last += 1
            self._asked[self._last] = mail
            self._nursery.send(SubmitOffline(self._last, mail.name))

    def submitted(self, imsg: OfflineSubmitted) -> None:
        mail = self._asked.pop(imsg.request, None)
        if mail is None:
            raise Violation("nursery answers OfflineSubmitted without a request")
        match imsg.verdict:
            case "sent":
                log.info(f"mail of uid {mail.owner} that was kept offline is handed in")
                self._removing.add(mail.name)
                self._worker.do(partial(self._remove, mail), partial(self._removed, mail))
            case "refused":
                self._refused(mail, imsg.reason)
            case "later" | "gone":
                log.debug(f"offline mail {mail.name} of uid {mail.owner}: {imsg.verdict} {imsg.reason}")
            case _:
                raise Violation(f'OfflineSubmitted with verdict "{imsg.verdict}"')
        self._proceed()
        if self._more and not (self._waiting or self._asked or self._is_listing) and self._timer is not None:
            self._more = False
            self._begin_in(LIST_PAUSE)

    def _refused(self, mail: KeptMail, reason: str) -> None:
        if self._waiting.pop(mail.owner, None):
            self._more = True  # what may be many more refusals is found again in the next listing
        refusals = self._refusals.pop(mail.name, 0) + 1
        if refusals >= ATTEMPTS_MAX or len(self._refusals) >= REFUSALS_MAX:
            self._set_aside(mail, reason)
        else:
            self._refusals[mail.name] = refusals
            self._warn(f"{mail.name} of uid {mail.owner} is refused: {reason}")

    def _set_aside(self, mail: KeptMail, reason: str) -> None:
        self._warn(f"{mail.name} of uid {mail.owner} is set aside as {mail.name}.refused: {reason}")
        self._worker.do(partial(self._rename, mail), partial(self._renamed, mail))

    def _removed(self, mail: KeptMail, outcome: Exception | None) -> None:
        if outcome is None:
            self._removing.discard(mail.name)
        else:
            self._warn(f"{mail.name} was handed in and cannot be removed: {describe_error(outcome)}; remove it")

    def _renamed(self, mail: KeptMail, outcome: Exception | None) -> None:
        if outcome is not None:
            self._warn(f"{mail.name} cannot be renamed: {describe_error(outcome)}")

    def _warn(self, text: str) -> None:
        log.warn(f"offline mail: {self._path}: {text}")

    # -- in the thread too -----------------------------------------------------------------------

    def _remove(self, mail: KeptMail) -> None:
        """Unless its owner has put another file there."""
        assert self._directory is not None
        with suppress(FileNotFoundError):
            if os.stat(mail.name, dir_fd=self._directory, follow_symlinks=False).st_ino == mail.inode:
                os.unlink(mail.name, dir_fd=self._directory)
                os.fsync(self._directory)

    def _rename(self, mail: KeptMail) -> None:
        directory = self._directory
        with suppress(FileNotFoundError):
            os.rename(mail.name, f"{mail.name}.refused", src_dir_fd=directory, dst_dir_fd=directory)


def _look_at(directory: int, name: str, listed: Listed) -> None:
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISREG(status.st_mode):
        listed.others += 1
    elif NAME.fullmatch(name):
        listed.mails.append(KeptMail(name, status.st_uid, status.st_size, status.st_ino))
    elif UNFINISHED.fullmatch(name):
        if time.time() - status.st_mtime > UNFINISHED_AGE:
            with suppress(OSError):
                os.unlink(name, dir_fd=directory)
    elif REFUSED.fullmatch(name):
        listed.refused += 1
    else:
        listed.others += 1
