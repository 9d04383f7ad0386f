"""FindUser: which users the system has.  The nursery asks, we remember.

A verdict is kept for a minute, also that there is nobody of that name; "later" is not.  The same question twice at the
same time is asked once.
"""

import time
from collections import OrderedDict
from collections.abc import Callable

from smtpd.imsg import FindUser, LookUpUser, UserFound, UserLookedUp
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
        self._line = NurseryRequests(loop, nursery, PRIVILEGED_REQUESTS[FindUser])
        self._verdicts: OrderedDict[str, tuple[float, str]] = OrderedDict()
        self._asking: dict[str, list[Callable[[str], None]]] = {}

    def find_user(self, channel: Channel, imsg: FindUser) -> None:
        check_allowed(self._configuration, channel, imsg)
        self.find(imsg.name, lambda verdict: channel.send(UserFound(imsg.request, verdict)))

    def find(self, name: str, use: Callable[[str], None]) -> None:
        """Call `use` with the verdict about `name`, now or when the nursery has answered."""
        verdict = self._known_verdict(name)
        if verdict is not None:
            use(verdict)
        elif name in self._asking:
            self._asking[name].append(use)
        elif self._line.full:
            use("later")
        else:
            self._asking[name] = [use]
            self._line.ask(
                lambda request: LookUpUser(request, name),
                lambda answer, _: self._found(name, answer.verdict),
                lambda: self._found(name, "later"),
            )

    def user_looked_up(self, imsg: UserLookedUp) -> None:
        self._line.answered(imsg)

    def _known_verdict(self, name: str) -> str | None:
        if not USER_NAME.fullmatch(name):
            return "unknown"
        until, verdict = self._verdicts.get(name, (0.0, ""))
        return verdict if until > time.monotonic() else None

    def _found(self, name: str, verdict: str) -> None:
        if verdict != "later":
            self._verdicts[name] = (time.monotonic() + CACHE_SECONDS, verdict)
            self._verdicts.move_to_end(name)
            if len(self._verdicts) > CACHE_MAX:
                self._verdicts.popitem(last=False)
        for use in self._asking.pop(name, []):
            use(verdict)
