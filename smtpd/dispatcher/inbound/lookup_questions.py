"""Questions of a session to lookup: sent as imsgs, whose answers become answers of the session.

    PasswordQuestion      CheckCredentials -> CredentialsChecked
    ScramSeedQuestion     BeginScram       -> ScramBegun
    ScramProofQuestion    FinishScram      -> ScramFinished
    SenderQuestion        CheckSender      -> SenderChecked
    RecipientQuestion     ExpandRecipient  -> RecipientExpanded | RecipientRefused

lookup is told the number of the listener, and knows by its own configuration which table that means.
"""

from collections import Counter
from collections.abc import Callable

from smtpd import imsg
from smtpd.ipc.request_window import RequestWindow
from smtpd.smtp.question import (
    Answer,
    PasswordAnswer,
    PasswordQuestion,
    Question,
    RecipientAnswer,
    RecipientQuestion,
    RefusedAnswer,
    ScramProofAnswer,
    ScramProofQuestion,
    ScramSeedAnswer,
    ScramSeedQuestion,
    SenderAnswer,
    SenderQuestion,
    Verdict,
)

Answered = Callable[[Answer], None]
STATISTICS = {Verdict.YES: "smtp.auth.ok", Verdict.NO: "smtp.auth.failed", Verdict.LATER: "smtp.auth.later"}


class LookupQuestions:
    """The questions of one session."""

    def __init__(self, to_lookup: RequestWindow, statistics: Counter[str], listener: int, answered: Answered):
        self._to_lookup, self._statistics = to_lookup, statistics
        self._listener, self._answered = listener, answered

    def ask(self, question: Question, address: str) -> None:
        """`address` is the client's, as the session knows it."""
        match question:
            case RecipientQuestion():
                self._accept_recipient(question)
            case PasswordQuestion():
                self._check_password(question, address)
            case ScramSeedQuestion():
                self._begin_scram(question, address)
            case ScramProofQuestion():
                self._finish_scram(question, address)
            case SenderQuestion():
                self._check_sender(question)
            case _:
                raise TypeError(f"{type(question).__name__} is not a question for lookup")

    def _accept_recipient(self, question: RecipientQuestion) -> None:
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

    def _check_password(self, question: PasswordQuestion, address: str) -> None:
        self._to_lookup.ask(
            lambda request: imsg.CheckCredentials(request, self._listener, address, question.user, question.password),
            lambda answer: self._answered(PasswordAnswer(self._count(answer.verdict))),
        )

    def _begin_scram(self, question: ScramSeedQuestion, address: str) -> None:
        self._to_lookup.ask(
            lambda request: imsg.BeginScram(request, self._listener, address, question.user),
            self._scram_begun,
        )

    def _finish_scram(self, question: ScramProofQuestion, address: str) -> None:
        self._to_lookup.ask(
            lambda request: imsg.FinishScram(
                request, self._listener, address, question.user, question.message, question.proof
            ),
            lambda answer: self._answered(ScramProofAnswer(self._count(answer.verdict), answer.signature)),
        )

    def _check_sender(self, question: SenderQuestion) -> None:
        self._to_lookup.ask(
            lambda request: imsg.CheckSender(request, self._listener, question.user, question.sender),
            lambda answer: self._answered(SenderAnswer(Verdict(answer.verdict))),
        )

    def _expanded(self, answer: imsg.RecipientExpanded | imsg.RecipientRefused) -> None:
        if isinstance(answer, imsg.RecipientExpanded):
            self._answered(RecipientAnswer(answer.count))
        else:
            self._answered(RefusedAnswer(answer.code, answer.enhanced, answer.text))

    def _scram_begun(self, answer: imsg.ScramBegun) -> None:
        verdict = Verdict(answer.verdict)
        if verdict is not Verdict.YES:
            self._count(answer.verdict)
        self._answered(ScramSeedAnswer(verdict, answer.salt, answer.iterations))

    def _count(self, word: str) -> Verdict:
        verdict = Verdict(word)
        self._statistics[STATISTICS[verdict]] += 1
        return verdict
