"""Runs expansions: asks parent, queue and tables their questions, and passes on their results.

    ExpandRecipient -> Expansion.steps() <-- users, .forward files, servers (cached), includes, table programs
                         Expanded:  AddEnvelopes -> queue, then RecipientExpanded -> the dispatcher that asked
                         Refusal:   RecipientRefused

    ExpandEnvelope  -> Expansion.steps_from(user): a command or file is no longer in the user's .forward
                         EnvelopeExpanded | EnvelopeNotExpanded -> queue
                    -> Expansion.steps(): of a notice to a sender, as for mail of this host

An exception in our code costs only the recipient it happened in: 451, and a traceback in the log.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from smtpd import imsg
from smtpd.envelope import Duty, Recipient, message_text
from smtpd.ipc.answer_cache import AnswerCache
from smtpd.ipc.channel import Channel
from smtpd.ipc.log import log, quoted
from smtpd.ipc.request_window import RequestWindow
from smtpd.lookup.expansion import Expanded, Expansion, ExpansionSteps
from smtpd.lookup.expansion_config import ExpansionConfig
from smtpd.lookup.include_file import IncludeFiles
from smtpd.lookup.node import (
    ExpansionQuestion,
    ForwardAnswer,
    ForwardQuestion,
    IncludeQuestion,
    ServerAnswer,
    ServerQuestion,
    UserQuestion,
)
from smtpd.lookup.refusal import TEXT_MAX, Refusal
from smtpd.lookup.user_check import forward_question
from smtpd.tables.alias_syntax import AliasSyntaxError, describe_faults, parse_forward
from smtpd.tables.table import PendingAnswer

USER_TTL = 60  # seconds; also for a user that does not exist
FORWARD_TTL = 5  # seconds; the longest time until a change takes effect
SERVER_TTL = 300  # seconds, for the extensions of an LMTP server,
FAILURE_TTL = 5  # and if it cannot be asked
USERS_CACHED, FORWARDS_CACHED, SERVERS_CACHED = 10_000, 1_000, 1_000  # numbers of cached answers
USER_QUESTIONS_MAX = 32  # open at a time: the parent forks a process for each
QUEUE_QUESTIONS_MAX = 256
PAGE_SIZE = 256 * 1024  # bytes of recipients in one imsg

INTERNAL_ERROR = Refusal(451, "4.3.0", "Temporary failure")

Ended = Callable[[Expanded | Refusal], None]


@dataclass(eq=False)
class RunningExpansion:
    """An expansion under way; `ended` gets its result."""

    about: str
    steps: ExpansionSteps
    ended: Ended


class RecipientExpander:
    def __init__(
        self,
        config: ExpansionConfig,
        parent: Channel,
        queue: Channel,
        now: Callable[[], float],
        statistics: Counter[str],
    ):
        self._config = config
        self._queue = queue
        self._statistics = statistics
        self.to_parent = RequestWindow(parent, USER_QUESTIONS_MAX)
        self.to_queue = RequestWindow(queue, QUEUE_QUESTIONS_MAX)
        self._caches: dict[type, AnswerCache[Any, Any]] = {
            UserQuestion: AnswerCache(self._find_user, now, USERS_CACHED),
            ForwardQuestion: AnswerCache(self._read_forward, now, FORWARDS_CACHED),
            ServerQuestion: AnswerCache(self._ask_server, now, SERVERS_CACHED),
        }
        self._includes = IncludeFiles()

    def _go_on(self, task: RunningExpansion, answer: Any) -> None:
        try:
            self._step(task, answer)
        except Exception as error:
            log.trouble(task.about, error)
            task.ended(INTERNAL_ERROR)

    def _step(self, task: RunningExpansion, answer: Any) -> None:
        """Continue to the first question whose answer is not cached, or to the end."""
        try:
            question = task.steps.send(answer)
            while (known := self._find(question)) is not None:
                question = task.steps.send(known)
        except StopIteration as end:
            task.ended(end.value)
        else:
            self._ask(question, partial(self._go_on, task))

    def _find(self, question: ExpansionQuestion | PendingAnswer) -> Any:
        """The answer, if it needs no other process."""
        match question:
            case IncludeQuestion():
                return self._includes.read(question.path)
            case PendingAnswer():
                return None
            case _:
                return self._caches[type(question)].find(question)

    def _ask(self, question: ExpansionQuestion | PendingAnswer, answered: Callable[[Any], None]) -> None:
        if isinstance(question, PendingAnswer):
            question.begin(answered)
        else:
            self._caches[type(question)].ask(question, answered)

    # -- a recipient, for a dispatcher ------------------------------------------------

    def expand(self, dispatcher: Channel, asked: imsg.ExpandRecipient) -> None:
        expansion = Expansion(
            self._config,
            asked.origin,
            asked.recipient,
            notify=asked.notify,
            original=asked.original,
        )
        about = f"recipient of message {message_text(asked.message)}"
        self._go_on(RunningExpansion(about, expansion.steps(), partial(self._recipient_ended, dispatcher, asked)), None)

    def _recipient_ended(self, dispatcher: Channel, asked: imsg.ExpandRecipient, end: Expanded | Refusal) -> None:
        if isinstance(end, Refusal):
            _say_why(asked.recipient, end)
            dispatcher.send(imsg.RecipientRefused(asked.request, end.code, end.enhanced, end.text))
            self._statistics["lookup.recipient.refused"] += 1
            return
        # First to queue: before the client gets its 250 for this RCPT, the envelopes are on their way.
        for page in pages(end.recipients):
            self._queue.send(imsg.AddEnvelopes(asked.message, asked.origin, page, asked.terms))
        dispatcher.send(imsg.RecipientExpanded(asked.request, len(end.recipients)))
        self._statistics["lookup.recipient.expanded"] += 1

    # -- an envelope, for queue ----------------------------------------------------------

    def expand_again(self, queue: Channel, asked: imsg.ExpandEnvelope) -> None:
        was = asked.recipient
        if was.duty is Duty.EXPAND:
            expansion = Expansion(self._config, asked.origin, was.recipient, notify=was.notify)
            ended = partial(self._envelope_ended, queue, asked)
            self._go_on(RunningExpansion("notice", expansion.steps(), ended), None)
            return
        action = self._config.actions.get(was.action)
        if action is None or was.duty is not Duty.FORWARDED:
            # The other targets of the alias have had their mail.
            reason = f"action {was.action} is gone" if action is None else "the command or file of its alias is gone"
            queue.send(imsg.EnvelopeNotExpanded(asked.request, False, reason[:TEXT_MAX]))
            return
        self._caches[ForwardQuestion].forget(forward_question(was.user, action))
        expansion = Expansion(self._config, asked.origin, was.recipient, notify=was.notify, original=was.original)
        steps = expansion.steps_from(was.user, was.extension, action, was.destination)
        self._go_on(RunningExpansion("envelope", steps, partial(self._envelope_ended, queue, asked)), None)

    def _envelope_ended(self, queue: Channel, asked: imsg.ExpandEnvelope, end: Expanded | Refusal) -> None:
        was = asked.recipient
        if isinstance(end, Refusal):
            _say_why(was.recipient, end)
            reason = f"{end.code} {end.enhanced} {end.text}"[:TEXT_MAX]
            queue.send(imsg.EnvelopeNotExpanded(asked.request, end.code >= 500, reason))
        elif was.digest and was.digest in {to.digest for to in end.recipients}:
            reason = f".forward of {was.user} is read in two ways"
            queue.send(imsg.EnvelopeNotExpanded(asked.request, False, reason))
        elif len(list(pages(end.recipients))) > 1:
            named = f".forward of {was.user} names" if was.user else "it leads to"
            queue.send(imsg.EnvelopeNotExpanded(asked.request, False, f"{named} too many"))
        else:
            queue.send(imsg.EnvelopeExpanded(asked.request, list(end.recipients)))
            self._statistics["lookup.envelope.expanded"] += 1

    # -- users, from the parent ------------------------------------------------------

    def _find_user(self, question: UserQuestion) -> None:
        def found(answer: imsg.UserFound) -> None:
            self._caches[UserQuestion].answer(question, answer.verdict, 0 if answer.verdict == "later" else USER_TTL)

        self.to_parent.ask(lambda request: imsg.FindUser(request, question.name), found)

    # -- .forward, from queue ----------------------------------------------------------

    def _read_forward(self, question: ForwardQuestion) -> None:
        def read(answer: imsg.ForwardRead) -> None:
            forward = to_forward_answer(answer)
            if forward.verdict == "text" and forward.reason:
                log.warn(f".forward of {question.user}: {forward.reason}")
            self._caches[ForwardQuestion].answer(question, forward, 0 if forward.verdict == "later" else FORWARD_TTL)

        self.to_queue.ask(lambda request: imsg.ReadForward(request, question.user, question.action), read)

    # -- LMTP servers, from queue --------------------------------------------------------

    def _ask_server(self, question: ServerQuestion) -> None:
        def asked(answer: imsg.ServerAnswered) -> None:
            seconds = FAILURE_TTL if answer.verdict == "later" else SERVER_TTL
            self._caches[ServerQuestion].answer(question, ServerAnswer(answer.verdict, answer.reason), seconds)

        self.to_queue.ask(lambda request: imsg.AskServerForUtf8(request, question.action), asked)


def pages(recipients: Sequence[Recipient]) -> Iterator[list[Recipient]]:
    """The recipients in pages that fit into one imsg."""
    page: list[Recipient] = []
    left = PAGE_SIZE
    for recipient in recipients:
        size = len(msgspec.msgpack.encode(recipient)) if len(recipients) > 1 else 0
        if page and size > left:
            yield page
            page, left = [], PAGE_SIZE
        page.append(recipient)
        left -= size
    yield page


def _say_why(recipient: str, refusal: Refusal) -> None:
    if refusal.reason:
        log.info(f"recipient {quoted(recipient)} refused: {refusal.reason}")


def to_forward_answer(answer: imsg.ForwardRead) -> ForwardAnswer:
    """The parsed content of a .forward, for the cache."""
    if answer.verdict != "text":
        return ForwardAnswer(answer.verdict, reason=answer.reason)
    try:
        targets, troubles = parse_forward(answer.content)
        return ForwardAnswer(
            "text", tuple(targets), f"skipped {'; '.join(describe_faults(troubles))}" if troubles else ""
        )
    except AliasSyntaxError as error:
        return ForwardAnswer("malformed", reason=str(error))
    except Exception as error:
        log.trouble("the text of a .forward", error)
        return ForwardAnswer("later", reason="its text cannot be parsed")
