"""Delivery to a command or file named in a .forward or alias file: the entry is found again by its digest.

    Deliver, digest --> read ~/.forward or the alias files again --> the one target with that digest
                                            |                          |command   is run     (command.py)
                                   none has it: STALE                  /file      is written (mail_local/mboxfile.py)

The file is the authorization.  Queue names a target by its SHA-256 only, so no process between here and the file can
make this one run a command or write a file that is not named there now.  Only the owner can have written the file: for
a .forward that is the user whom this process has become, for an alias file root, or the ordinary user who started the
daemon.

When the file cannot be read or used, the mail is tried again later: its recipients are not known now.
"""

import os
import socket
import stat
import time
from functools import partial

from mail_local import mbox, mboxfile, trace
from smtpd.agent import forward, mail
from smtpd.agent.command import WORKERS_MAX, CommandRunner, OneMailExecutor
from smtpd.config import trust
from smtpd.config.file_permission import others_who_write
from smtpd.config.specifier import parse
from smtpd.envelope import Outcome
from smtpd.errand import AgentSpec, Deliver, Request, Result
from smtpd.ipc.os_error import describe_error
from smtpd.tables import alias_syntax, file
from smtpd.tables.alias_syntax import Command, File, Target
from smtpd.tables.text_file import FILE_SIZE_MAX, decode

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class TargetDeferred(OSError):
    """The file cannot be read or used now."""


def forward_targets(home: str, uid: int) -> list[Target]:
    """The targets in the user's .forward.  Raises TargetDeferred."""
    verdict, content = forward.read(home, uid)
    if verdict == "none":
        return []
    if verdict != "text":
        raise TargetDeferred(content.decode(errors="replace"))
    try:
        return alias_syntax.parse_forward(content).targets
    except alias_syntax.AliasSyntaxError as error:
        raise TargetDeferred(f"{home}/{forward.NAME}: {error}") from None


def alias_targets(path: str, owner: int) -> list[Target]:
    """The targets in an alias file.  Raises OSError, or ValueError for a file that others could have written."""
    targets = list[Target]()
    # Malformed lines are skipped: lookup goes on with the last good content of the file, and may name its targets.
    for _, value in file.read(_text_of(path, owner), is_list=False).pairs():
        try:
            targets += alias_syntax.parse_value(value)
        except alias_syntax.AliasSyntaxError:  # lookup refuses mail for that alias; the other aliases work
            continue
    return targets


def _text_of(path: str, owner: int) -> str:
    """Root's have to be root's alone, as all on the way to them; those of an ordinary user are that user's affair."""
    descriptor = os.open(trust.check_path(path) if owner == 0 else os.path.realpath(path), _FILE)
    with open(descriptor, "rb") as opened:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise trust.Untrusted(f"{path} is not a regular file")
        if status.st_uid not in (0, owner):
            raise trust.Untrusted(f"{path} belongs to uid {status.st_uid}, expected uid {owner}")
        if who := others_who_write(descriptor, status):
            raise trust.Untrusted(f"{path} is writable by others than its owner: chmod {who}-w {path}")
        content = opened.read(FILE_SIZE_MAX + 1)
    if len(content) > FILE_SIZE_MAX:
        raise trust.Untrusted(f"{path} is too large")
    return decode(content)


class AliasFiles:
    """Alias files, read again when they have changed; a hand may ask at any time."""

    def __init__(self, paths: tuple[str, ...], owner: int):
        self._paths, self._owner = paths, owner
        self._read: dict[str, tuple[tuple[int, ...], list[Target]]] = {}

    def targets(self) -> list[Target]:
        """Raises TargetDeferred."""
        found = list[Target]()
        for path in self._paths:
            try:
                found += self._targets_of(path)
            except (OSError, ValueError) as error:
                reason = describe_error(error)
                raise TargetDeferred(reason if path in reason else f"{path}: {reason}") from None
        return found

    def _targets_of(self, path: str) -> list[Target]:
        status = os.stat(path)
        state = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        before, targets = self._read.get(path, ((), []))
        if state != before:
            targets = alias_targets(path, self._owner)
            self._read[path] = state, targets
        return targets


class ExpansionTargetAgent:
    """Agent kind for commands and files that are named in a .forward or alias file, not in the configuration."""

    REQUESTS: tuple[type[Request], ...] = (Deliver,)
    WORKERS_MAX = WORKERS_MAX
    BATCH_MAX = 1
    BATCH_BYTES = 1
    GATHER_TIME = 0
    SAME_MESSAGE = False
    SPARE_WORKER = True

    def __init__(self, spec: AgentSpec, user: str, home: str):
        self.visible_paths: list[tuple[str, str]] = []
        self.draining = False
        self._runner = CommandRunner(spec, user, home)
        self._targets = (
            AliasFiles(spec.files, spec.owner).targets if spec.files else partial(forward_targets, home, os.getuid())
        )

    def make_executor(self, queue: socket.socket, *_: object) -> OneMailExecutor:
        return OneMailExecutor(queue, partial(self._deliver, queue))

    def _deliver(self, queue: socket.socket, errand: Deliver, descriptor: int) -> Result:
        for target in self._targets():
            match target:
                case Command() if alias_syntax.digest(target) == errand.digest:
                    return self._runner.run(self._runner.template(target.line), errand, descriptor, queue)
                case File() if alias_syntax.digest(target) == errand.digest:
                    return self._append(target.path, errand, descriptor)
        return Result(errand.envelope, Outcome.STALE, "not in the file any more")

    def _append(self, target: str, errand: Deliver, descriptor: int) -> Result:
        path = parse(target).path(self._runner.values(errand), self._runner.delimiter)
        content = mail.content_of(errand, descriptor, trace.added_lines(errand.sender, errand.recipient))
        try:
            mboxfile.append(path, mbox.MboxMail(errand.sender, time.time(), content))
        except mboxfile.MailboxError as error:
            raise TargetDeferred(f"{path}: {error}") from None
        return Result(errand.envelope, Outcome.DELIVERED, "Delivered")
