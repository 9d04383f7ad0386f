"""Carries expansions: asks parent and queue what they want to know, hands over what they come to.

    ExpandRecipient -> Expansion.steps() <-- users, forwards (each remembered for a while)
                         Expanded:  AddEnvelopes -> queue, then RecipientExpanded -> the dispatcher that asked
                         Refusal:   RecipientRefused

An exception of ours costs the recipient that it happened to: 451, and a traceback in the log.
"""

from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass

from smtpd import imsg
from smtpd.config.slice import LookupSlice
from smtpd.envelope import message_text
from smtpd.ipc.channel import Channel
from smtpd.ipc.log import log, quoted
from smtpd.ipc.question import Questions
from smtpd.lookup.expansion import Expanded, Expansion, FindUser, Forward, Question, Refusal
from smtpd.lookup.memory import Memory
from smtpd.lookup.rule import Rules
from smtpd.tables.expansion import Malformed, parse_forward

USER_SECONDS = 60  # that a user is known, or known not to be one
FORWARD_SECONDS = 5  # that a .forward is taken to be as it was: the time a change needs to be seen at the most
USERS, FORWARDS = 10_000, 1_000  # remembered
USER_QUESTIONS = 32  # to the parent at a time: each is a process there
FORWARD_QUESTIONS = 256

BROKEN = Refusal(451, "4.3.0", "Temporary failure")


@dataclass(eq=False)
class Task:
    """One ExpandRecipient under way; `dispatcher` is where it came from."""

    dispatcher: Channel
    asked: imsg.ExpandRecipient
    steps: Generator[Question, str | Forward, Expanded | Refusal]


class Recipients:
    def __init__(
        self,
        configuration: LookupSlice,
        rules: Rules,
        parent: Channel,
        queue: Channel,
        now: Callable[[], float],
        statistics: Counter[str],
    ):
        self._configuration = configuration
        self._rules = rules
        self._queue = queue
        self._statistics = statistics
        self.to_parent = Questions(parent, USER_QUESTIONS)
        self.to_queue = Questions(queue, FORWARD_QUESTIONS)
        self._users: Memory[str, str] = Memory(self._find_user, now, USERS)
        self._forwards: Memory[str, Forward] = Memory(self._read_forward, now, FORWARDS)

    def expand(self, dispatcher: Channel, asked: imsg.ExpandRecipient) -> None:
        configuration = self._configuration
        expansion = Expansion(
            self._rules, configuration.sub_addr_delim, configuration.server_name, asked.origin, asked.recipient
        )
        self._go_on(Task(dispatcher, asked, expansion.steps()), None)

    def _go_on(self, task: Task, answer: str | Forward | None) -> None:
        try:
            self._step(task, answer)
        except Exception as error:
            log.trouble(f"recipient of message {message_text(task.asked.message)}", error)
            self._refuse(task, BROKEN)

    def _step(self, task: Task, answer: str | Forward | None) -> None:
        """Up to the first question whose answer is not known, or to the end."""
        try:
            question = next(task.steps) if answer is None else task.steps.send(answer)
            while (known := self._find(question)) is not None:
                question = task.steps.send(known)
        except StopIteration as end:
            self._finish(task, end.value)
        else:
            self._ask(question, lambda answer: self._go_on(task, answer))

    def _find(self, question: Question) -> str | Forward | None:
        if isinstance(question, FindUser):
            return self._users.find(question.name)
        return self._forwards.find(question.user)

    def _ask(self, question: Question, answered: Callable[[str | Forward], None]) -> None:
        if isinstance(question, FindUser):
            self._users.ask(question.name, answered)
        else:
            self._forwards.ask(question.user, answered)

    # -- the end -------------------------------------------------------------------

    def _finish(self, task: Task, outcome: Expanded | Refusal) -> None:
        if isinstance(outcome, Refusal):
            self._refuse(task, outcome)
            return
        recipients = list(outcome.recipients)
        # First to queue: when the client has its 250 for this RCPT, the envelopes are on their way.
        self._queue.send(imsg.AddEnvelopes(task.asked.message, task.asked.origin, recipients))
        task.dispatcher.send(imsg.RecipientExpanded(task.asked.request, len(recipients)))
        self._statistics["lookup.recipient.expanded"] += 1

    def _refuse(self, task: Task, refusal: Refusal) -> None:
        if refusal.reason:
            log.info(f"recipient {quoted(task.asked.recipient)} refused: {refusal.reason}")
        refused = imsg.RecipientRefused(task.asked.request, refusal.code, refusal.enhanced, refusal.text)
        task.dispatcher.send(refused)
        self._statistics["lookup.recipient.refused"] += 1

    # -- users, from the parent ------------------------------------------------------

    def _find_user(self, name: str) -> None:
        def found(answer: imsg.UserFound) -> None:
            self._users.answer(name, answer.verdict, 0 if answer.verdict == "later" else USER_SECONDS)

        self.to_parent.ask(lambda request: imsg.FindUser(request, name), found)

    # -- .forward, from queue ----------------------------------------------------------

    def _read_forward(self, user: str) -> None:
        def read(answer: imsg.ForwardRead) -> None:
            forward = understand(answer)
            self._forwards.answer(user, forward, 0 if forward.verdict == "later" else FORWARD_SECONDS)

        self.to_queue.ask(lambda request: imsg.ReadForward(request, user), read)


def understand(answer: imsg.ForwardRead) -> Forward:
    """What the user wants; parsed once for as long as it is remembered."""
    if answer.verdict != "text":
        return Forward(answer.verdict, reason=answer.reason)
    try:
        return Forward("text", tuple(parse_forward(answer.content)))
    except Malformed as error:
        return Forward("malformed", reason=str(error))
    except Exception as error:
        log.trouble("the text of a .forward", error)
        return Forward("later", reason="its text cannot be read")
