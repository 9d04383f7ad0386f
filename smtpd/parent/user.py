"""FindUser: which users the system has.  The nursery asks the name service, and its verdicts are kept.

A verdict is kept for a minute, also that there is no user of that name; "later" is not.  A name is asked for once
however many questions wait for it.
"""

import time
from collections.abc import Callable

from smtpd.imsg import FindUser, LookUpUser, UserFound, UserLookedUp
from smtpd.ipc.answer_cache import AnswerCache
from smtpd.ipc.channel import Channel
from smtpd.ipc.selector_loop import SelectorLoop
from smtpd.parent.nursery_request import NurseryRequests
from smtpd.parent.privileged_request import PRIVILEGED_REQUESTS, check_allowed
from smtpd.slice import USER_NAME, ParentSlice

CACHE_SECONDS = 60
CACHE_MAX = 4096  # names


class Users:
    def __init__(self, loop: SelectorLoop, nursery: Channel, configuration: ParentSlice):
        self._configuration = configuration
        self._requests = NurseryRequests(loop, nursery, PRIVILEGED_REQUESTS[FindUser])
        self._verdicts: AnswerCache[str, str] = AnswerCache(self._look_up, time.monotonic, CACHE_MAX)

    def find_user(self, channel: Channel, imsg: FindUser) -> None:
        check_allowed(self._configuration, channel, imsg)
        self.find(imsg.name, lambda verdict: channel.send(UserFound(imsg.request, verdict)))

    def find(self, name: str, use: Callable[[str], None]) -> None:
        """Call `use` with the verdict about `name`, now or when the nursery has answered."""
        verdict = self._verdicts.find(name) if USER_NAME.fullmatch(name) else "unknown"
        if verdict is not None:
            use(verdict)
        else:
            self._verdicts.ask(name, use)

    def user_looked_up(self, imsg: UserLookedUp) -> None:
        self._requests.answered(imsg)

    def _look_up(self, name: str) -> None:
        if self._requests.full:
            self._found(name, "later")
            return
        self._requests.ask(
            lambda request: LookUpUser(request, name),
            lambda answer, _: self._found(name, answer.verdict),
            lambda: self._found(name, "later"),
        )

    def _found(self, name: str, verdict: str) -> None:
        self._verdicts.answer(name, verdict, 0 if verdict == "later" else CACHE_SECONDS)
