"""The dispatcher of the model, as far as it relays: it holds what it was given until the model says what becomes of it.

It takes the next host's word for each recipient, may lose it after the host has the mail, may find that no host can be
reached, and ends with the daemon.
"""

import os

from smtpd.envelope import Outcome, RelayResult, message_of
from smtpd.imsg import (
    ContentFetched,
    ContentFileFetched,
    ContentNotFetched,
    DelayDestination,
    FetchContent,
    RelayMessage,
    RelayTried,
    ResumeDestination,
    ReturnRecipients,
    WithdrawRecipient,
)
from tests.queue.model.ledger import PromiseBroken

ANSWERS = ContentFetched | ContentFileFetched | ContentNotFetched
LIMIT = 4  # envelopes of one destination in flight, as the scheduler is told


class Attempt:
    def __init__(self, imsg):
        self.number, self.destination, self.message = imsg.attempt, imsg.destination, imsg.message
        self.envelopes = [to.envelope for to in imsg.recipients]
        self.domains = {to.address.rpartition("@")[2] for to in imsg.recipients}
        self.fetching, self.has_content = False, bool(imsg.content)


class Dispatcher:
    """`say(imsg)` to queue; `content(message)` is what was accepted."""

    def __init__(self, ledger, say, content):
        self._ledger, self._say, self._content = ledger, say, content
        self.attempts = {}
        self._destinations = {}  # number -> domain
        self.delayed = set()  # destinations that are to be resumed some time
        self._requests = {}

    def hear(self, imsg, descriptor):
        if isinstance(imsg, RelayMessage):
            self._take(Attempt(imsg), imsg)
            return
        if isinstance(imsg, WithdrawRecipient):
            attempt = self.attempts.get(imsg.attempt)
            is_sent = attempt is not None and attempt.has_content and not imsg.envelope % 3
            if attempt is not None and imsg.envelope in attempt.envelopes and not is_sent:
                self._give_back(attempt, [imsg.envelope])
            return
        attempt = self._requests.pop(imsg.request)
        attempt.fetching = False
        if isinstance(imsg, ContentNotFetched):
            self.attempts.pop(attempt.number, None)
            return
        expected = self._content(attempt.message)
        content = imsg.content if descriptor is None else os.pread(descriptor, len(expected) + 1, 0)
        if descriptor is not None:
            os.close(descriptor)
        if content != expected:
            raise PromiseBroken(f"attempt {attempt.number} has another content")
        attempt.has_content = True

    def _take(self, attempt, imsg):
        if attempt.domains != {imsg.domain} or {message_of(id) for id in attempt.envelopes} != {imsg.message}:
            raise PromiseBroken(f"attempt {attempt.number} is of several messages or destinations")
        if self._destinations.setdefault(attempt.destination, imsg.domain) != imsg.domain:
            raise PromiseBroken("two destinations have one number")
        if imsg.content and imsg.content != self._content(imsg.message):
            raise PromiseBroken(f"attempt {attempt.number} has another content")
        self.attempts[attempt.number] = attempt
        inflight = sum(len(one.envelopes) for one in self.attempts.values() if one.destination == attempt.destination)
        if inflight > LIMIT:
            raise PromiseBroken(f"{inflight} envelopes of one destination are in flight")

    # -- what becomes of an attempt ---------------------------------------------------------------------------------

    def step(self, number):
        """One thing happens to one attempt.  False when there is none."""
        attempts = [*self.attempts.values()]
        if not attempts:
            return False
        number, at = divmod(number, len(attempts))
        attempt = attempts[at]
        number, which = divmod(number, len(attempt.envelopes))
        envelope = attempt.envelopes[which]
        if attempt.fetching and number % 4:
            return True  # it waits
        if attempt.fetching:  # it has lost its host meanwhile
            if number % 8:
                self._give_back(attempt, [envelope])
            else:
                self._report(attempt, envelope, Outcome.DEFERRED, f"timeout {number}")
            return True
        if not attempt.has_content:
            match number % 8:
                case 1:
                    self._delay(attempt, number)
                case 2:
                    self._give_back(attempt, [envelope])
                case 3:  # before any content is sent: RCPT
                    self._report(attempt, envelope, Outcome.FAILED, f"no such user {number}")
                case _:
                    self._fetch(attempt)
            return True
        match number % 16:
            case 1:
                self._deliver(attempt, envelope, uncertain=True)
            case 2:
                self._delay(attempt, number)
            case 3 | 4 | 5:
                self._report(attempt, envelope, Outcome.DEFERRED, f"later {number}")
            case 6:
                self._report(attempt, envelope, Outcome.FAILED, "never")
            case 7:
                self._report(attempt, envelope, Outcome.LOOP, "")
            case 8:
                self._fetch(attempt)  # of the next host
            case _:
                self._deliver(attempt, envelope)
        return True

    def help(self):
        """Everything is delivered.  True when there was something to do."""
        waits = any(not attempt.fetching for attempt in self.attempts.values())
        for attempt in [*self.attempts.values()]:
            if not attempt.fetching and not attempt.has_content:
                self._fetch(attempt)
            while attempt.has_content and attempt.envelopes:
                self._deliver(attempt, attempt.envelopes[0])
        return waits

    def resume(self, number):
        if self.delayed:
            destination = sorted(self.delayed)[number % len(self.delayed)]
            self.delayed.discard(destination)
            self._say(ResumeDestination(destination))

    def _fetch(self, attempt):
        attempt.fetching, attempt.has_content = True, False
        request = max(self._requests, default=0) + 1
        self._requests[request] = attempt
        self._say(FetchContent(request, attempt.number))

    def _deliver(self, attempt, envelope, *, uncertain=False):
        """The next host has it; `uncertain`: and its word for it is lost."""
        row = self._ledger.known[envelope]
        self._ledger.deliver(envelope, row, once=False)
        if uncertain:
            self._ledger.excuse(row)
            self._report(attempt, envelope, Outcome.DEFERRED, "the connection was lost", uncertain=True)
        else:
            self._ledger.answered.add(envelope)
            self._report(attempt, envelope, Outcome.DELIVERED, "250 Ok")

    def _report(self, attempt, envelope, outcome, text, *, uncertain=False):
        if outcome in (Outcome.FAILED, Outcome.LOOP):
            self._ledger.failed.add(envelope)
        self._say(RelayTried(attempt.number, [RelayResult(envelope, outcome, text, uncertain=uncertain)]))
        self._ended(attempt, [envelope])

    def _delay(self, attempt, number):
        """No host of the destination can be reached: nothing that it has of it is tried."""
        self.delayed.add(attempt.destination)
        self._say(DelayDestination(attempt.destination, 1 + number % 3000, f"no host {number % 9}"))
        for one in [*self.attempts.values()]:
            if one.destination == attempt.destination and not one.fetching:
                self._give_back(one, [*one.envelopes])

    def _give_back(self, attempt, envelopes):
        self._say(ReturnRecipients(attempt.number, envelopes))
        self._ended(attempt, envelopes)

    def _ended(self, attempt, envelopes):
        for envelope in envelopes:
            attempt.envelopes.remove(envelope)
        if not attempt.envelopes:
            del self.attempts[attempt.number]
