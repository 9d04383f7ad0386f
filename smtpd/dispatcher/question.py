"""What a session asks lookup: its questions as imsgs, and their answers back.

    CheckPassword    CheckCredentials -> CredentialsChecked
    BeginScram       BeginScram       -> ScramBegun
    FinishScram      FinishScram      -> ScramFinished
    CheckSender      CheckSender      -> SenderChecked
    AcceptRecipient  ExpandRecipient  -> RecipientExpanded | RecipientRefused

lookup is told the listener, and finds by its own configuration what is asked there: no table is named here.
"""

from collections import Counter
from collections.abc import Callable

from smtpd import imsg
from smtpd.ipc.question import Questions
from smtpd.smtp.question import (
    AcceptRecipient,
    Answer,
    BeginScram,
    CheckPassword,
    CheckSender,
    FinishScram,
    PasswordChecked,
    Question,
    RecipientAccepted,
    Refused,
    ScramBegun,
    ScramFinished,
    SenderChecked,
    Verdict,
)

Answered = Callable[[Answer], None]
STATISTICS = {Verdict.YES: "smtp.auth.ok", Verdict.NO: "smtp.auth.failed", Verdict.LATER: "smtp.auth.later"}


class Inquiry:
    """The questions of one session."""

    def __init__(self, to_lookup: Questions, statistics: Counter[str], listener: int, answered: Answered):
        self._to_lookup, self._statistics = to_lookup, statistics
        self._listener, self._answered = listener, answered

    def ask(self, question: Question, address: str) -> None:
        """`address` is the client's, as the session knows it."""
        match question:
            case AcceptRecipient():
                self._accept_recipient(question)
            case CheckPassword():
                self._check_password(question, address)
            case BeginScram():
                self._begin_scram(question, address)
            case FinishScram():
                self._finish_scram(question, address)
            case CheckSender():
                self._check_sender(question)
            case _:
                raise TypeError(f"{type(question).__name__} is no question for lookup")

    def _accept_recipient(self, question: AcceptRecipient) -> None:
        self._to_lookup.ask(
            lambda request: imsg.ExpandRecipient(
                request,
                question.message,
                question.origin,
                question.recipient,
                question.terms,
                question.notify,
                question.original,
            ),
            self._expanded,
        )

    def _check_password(self, question: CheckPassword, address: str) -> None:
        self._to_lookup.ask(
            lambda request: imsg.CheckCredentials(request, self._listener, address, question.user, question.password),
            lambda answer: self._answered(PasswordChecked(self._count(answer.verdict))),
        )

    def _begin_scram(self, question: BeginScram, address: str) -> None:
        self._to_lookup.ask(
            lambda request: imsg.BeginScram(request, self._listener, address, question.user),
            self._scram_begun,
        )

    def _finish_scram(self, question: FinishScram, address: str) -> None:
        self._to_lookup.ask(
            lambda request: imsg.FinishScram(
                request, self._listener, address, question.user, question.message, question.proof
            ),
            lambda answer: self._answered(ScramFinished(self._count(answer.verdict), answer.signature)),
        )

    def _check_sender(self, question: CheckSender) -> None:
        self._to_lookup.ask(
            lambda request: imsg.CheckSender(request, self._listener, question.user, question.sender),
            lambda answer: self._answered(SenderChecked(Verdict(answer.verdict))),
        )

    def _expanded(self, answer: imsg.RecipientExpanded | imsg.RecipientRefused) -> None:
        if isinstance(answer, imsg.RecipientExpanded):
            self._answered(RecipientAccepted(answer.count))
        else:
            self._answered(Refused(answer.code, answer.enhanced, answer.text))

    def _scram_begun(self, answer: imsg.ScramBegun) -> None:
        verdict = Verdict(answer.verdict)
        if verdict is not Verdict.YES:
            self._count(answer.verdict)
        self._answered(ScramBegun(verdict, answer.salt, answer.iterations))

    def _count(self, word: str) -> Verdict:
        verdict = Verdict(word)
        self._statistics[STATISTICS[verdict]] += 1
        return verdict
