"""SubmitOffline: mail that was kept while the daemon did not run, each handed in by a child that is its owner.

    SubmitOffline(name) --fork--> a child opens the file, becomes its owner, hands it in --line--> OfflineSubmitted
                                  killed after SUBMIT_TIMEOUT, and the mail is tried later

Nothing of a file is read here.
"""

import os
from collections.abc import Callable, Collection
from functools import partial

from smtpd.envelope import Text
from smtpd.imsg import OfflineSubmitted, SubmitOffline, TakeOfflineDirectory
from smtpd.ipc.channel import Channel
from smtpd.ipc.text_limit import fit_text
from smtpd.nursery.child_main import OfflineSetup, PrepareOffline, run_offline

SUBMIT_TIMEOUT = 300.0  # seconds for one mail
VERDICTS = frozenset(("sent", "later", "refused", "gone"))
DIED = "the process that hands it in has died"

Fork = Callable[..., int | None]


class OfflineMail:
    """`fork(child, finished, *descriptors, timeout=…)`: Children's; `finished` is called with the last line."""

    def __init__(self, parent: Channel, prepare: PrepareOffline, fork: Fork, reserved_uids: Collection[int]):
        self._parent, self._prepare, self._fork, self._reserved_uids = parent, prepare, fork, reserved_uids
        self._folder: int | None = None
        self._socket = ""
        self.filter: bytes | None = None

    def take_directory(self, imsg: TakeOfflineDirectory, descriptor: int) -> None:
        if self._folder is not None:
            os.close(self._folder)
        self._folder, self._socket = descriptor, imsg.socket

    def submit(self, imsg: SubmitOffline) -> None:
        if self._folder is None:
            self._answer(imsg, "later", "there is no directory")
            return
        setup = OfflineSetup(imsg.name, self._socket, self.filter, self._reserved_uids)
        child = partial(run_offline, setup, self._prepare)
        if self._fork(child, partial(self._finished, imsg), self._folder, timeout=SUBMIT_TIMEOUT) is None:
            self._answer(imsg, "later", "no further process can be made")

    def _finished(self, imsg: SubmitOffline, _starting: object, line: str) -> None:
        verdict, _, reason = line.partition(" ")
        if verdict in VERDICTS:
            self._answer(imsg, verdict, reason)
        else:
            self._answer(imsg, "refused", DIED)  # at its third end of this kind it is not tried any more

    def _answer(self, imsg: SubmitOffline, verdict: str, reason: str) -> None:
        self._parent.send(OfflineSubmitted(imsg.request, verdict, fit_text(Text, reason)))
