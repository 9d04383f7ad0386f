"""The server's side of an SMTP session, without I/O: bytes, answers and "now" go in, actions come out.

    greeting                 the banner
    receive                  bytes: lines to obey (verb.py), or content
    answer                   to the open question; the session goes on with what it was fed meanwhile
    tick                     timeouts
    shutdown, expel          421, after the answer to a message that is being stored
    failed, aborted          an error of our own; the connection is gone

The driver must not read from the socket while `waiting`; what it has read already it may feed.

A session holds no more than it is fed at once, one command line, and the recipients of one message.  "now" is the
seconds of any clock that only goes forward.
"""

from smtpd.smtp import content, login
from smtpd.smtp.action import Action, Ask, Close, DropMessage, Log, Say
from smtpd.smtp.command import split_command
from smtpd.smtp.question import (
    ANSWERS,
    Answer,
    MessageIdAnswer,
    PauseQuestion,
    RecipientAnswer,
    StoreAnswer,
    StoreQuestion,
    TlsQuestion,
)
from smtpd.smtp.reply import CommandRefused, Reply
from smtpd.smtp.session import Session
from smtpd.smtp.state import State
from smtpd.smtp.verb import UNKNOWN, VERBS, Verb

SPOKE_EARLY = Reply(554, "5.5.1", "You spoke before the banner")
TIMEOUT = Reply(421, "4.4.2", "Timeout, closing connection")
TOO_LONG_A_SESSION = Reply(421, "4.4.2", "Session lasted too long, closing connection")
TOO_MANY_ERRORS_OF_ADDRESS = Reply(421, "4.7.0", "Too many errors from your address, closing connection")
SHUTTING_DOWN = Reply(421, "4.3.2", "Service shutting down, closing connection")
INTERNAL_ERROR = Reply(421, "4.3.0", "Internal error, closing connection")


class ServerSession(Session):
    """A session with its input.  The driver obeys the actions that each method returns, in their order."""

    __slots__ = ()

    def greeting(self, now: float, early: bool, date: float) -> list[Action]:
        """The banner.  Nothing may be fed before it.  `early`: the client did not wait.  `date`: seconds since 1970."""
        self._begun = self._heard = now
        self._epoch = date - now
        user = {} if self.client.uid is None else {"uid": self.client.uid}
        self.log("connected", address=self.address, host=self.client.name, **user)
        if early:  # RFC 5321 3.1, 4.3.1
            self.log("bad-input", result=SPOKE_EARLY.text)
            self.count_failure()
            self.hang_up(SPOKE_EARLY, "early-talker")
        else:
            self.say_banner()
        return self._take_actions()

    def receive(self, data: bytes, now: float) -> list[Action]:
        """Any bytes: part of a command, a group of commands, content."""
        self._heard = now
        if self.state is State.WAITING:
            if not isinstance(self.question, TlsQuestion):  # RFC 3207 4.2: nothing more in the clear
                self.lines.feed(data)
        elif self.state is not State.CLOSED:
            self.lines.feed(data)
            self._proceed()
        return self._take_actions()

    def answer(self, answer: Answer, now: float) -> list[Action]:
        """The answer to the open question, also when the session is over by now."""
        self._heard = now  # the time that our own processes take is no silence of the client
        question, self.question = self.question, None
        resume, self._resume = self._resume, None
        if self.closed:
            self._settle(answer)
        elif question is None or resume is None or not isinstance(answer, ANSWERS[type(question)]):
            raise TypeError(f"{type(answer)} is no answer to {type(question)}")
        else:
            resume(answer)
            if self._dismissal and not self.closed:
                self.hang_up(*self._dismissal)
            self._proceed()
        return self._take_actions()

    def tick(self, now: float) -> list[Action]:
        """Every second or so: has the client been silent, or connected, for too long?"""
        if not (self.waiting or self.closed):
            if now - self._heard >= self.settings.limits.timeout:
                self.hang_up(TIMEOUT, "timeout")
            elif now - self._begun >= self.settings.limits.max_seconds:
                self.hang_up(TOO_LONG_A_SESSION, "timeout")
        return self._take_actions()

    def shutdown(self) -> list[Action]:
        """The daemon stops."""
        return self._dismiss(SHUTTING_DOWN, "shutdown")

    def expel(self) -> list[Action]:
        """Too much was refused to this client's address, here or in other sessions."""
        return self._dismiss(TOO_MANY_ERRORS_OF_ADDRESS, "too-many-errors")

    def failed(self) -> list[Action]:
        """A method of this session raised: it costs this session and no other."""
        if any(isinstance(action, Ask) for action in self._actions):
            self.question = None  # it was never asked
        self._actions = [action for action in self._actions if isinstance(action, DropMessage | Log)]
        if self.closed:
            self._actions.append(Close("internal-error"))
        else:
            self.hang_up(INTERNAL_ERROR, "internal-error")
        return self._take_actions()

    def aborted(self, reason: str = "disconnect") -> list[Action]:
        """The connection is gone."""
        self._replies.clear()
        if not self.closed:
            self.leave(reason)
        return self._take_actions()

    # Input: lines, and content

    def _proceed(self) -> None:
        try:
            while self.state not in (State.WAITING, State.CLOSED) and self._step():
                pass
        except CommandRefused as refused:  # not a line at all: where the next one begins is not known
            self.log("bad-input", result=refused.reply.text)
            self.count_failure()
            self.hang_up(refused.reply, "bad-input")

    def _step(self) -> bool:
        """One line, or all content that is there; False when there is nothing to go on with."""
        if self.state is State.DATA:
            return content.read_data(self)
        if self.state is State.CHUNK:
            return content.read_chunk(self)
        if self.state is State.AUTH:
            line = self.lines.maybe_line(login.MAX_RESPONSE, "5.5.6")  # RFC 4954 6
            if line is not None:
                login.receive(self, line)
        else:
            line = self.lines.maybe_line()
            if line is not None:
                self._obey(line)
        return line is not None

    def _obey(self, line: bytes) -> None:
        self.command, self.command_is_secret, self.reply_may_wait = line, self._in_auth, False
        try:
            word, argument = split_command(line)
            verb = VERBS.get(word, UNKNOWN)
            if verb is not UNKNOWN:
                self._in_auth = word == "AUTH"
                self.command_is_secret = False
                self.reply_may_wait = verb.reply_may_wait
            self._check_order(verb, word, argument)
            verb.obey(self, argument)
        except CommandRefused as refused:
            self.refuse(refused.reply, close=refused.close)

    def _check_order(self, verb: Verb, word: str, argument: str) -> None:
        if verb.ends_group and not self.lines.is_empty():  # RFC 2920 3.1: content must not be taken for commands
            raise CommandRefused(503, "5.5.1", f"Nothing may follow {word} before its answer", close=True)
        if self.state not in verb.states:
            raise CommandRefused(503, "5.5.1", f"{word} not allowed: {self.state.value}")
        if argument and not verb.argument:
            raise CommandRefused(500, "5.5.4", f"{word} takes no argument")
        if verb.unproductive:
            self.count_unproductive()

    # Output, and the end

    def _dismiss(self, reply: Reply, reason: str) -> list[Action]:
        """A message that is being stored is answered first, or the client would send it again."""
        if isinstance(self.question, StoreQuestion):
            self._dismissal = (reply, reason)
        elif not self.closed:
            self.hang_up(reply, reason)
        return self._take_actions()

    def _settle(self, answer: Answer) -> None:
        """The client left while this was being asked: what was stored stays, the rest is taken back."""
        match answer:
            case MessageIdAnswer():
                self._actions.append(DropMessage(answer.message, 0))
            case RecipientAnswer():
                self.get_transaction().envelopes += answer.envelopes
            case StoreAnswer():
                self.end_stored()
        self.drop()

    def _take_actions(self) -> list[Action]:
        """What is to be said stands first: it never promises what is asked for behind it."""
        actions, self._actions = self._actions, []
        if self._replies and not self._may_hold_replies():
            actions.insert(0, Say(b"".join(self._replies)))
            self._replies.clear()
            self._urgent = False
        return actions

    def _may_hold_replies(self) -> bool:
        """While more of a group is there, the replies to its MAIL, RCPT and RSET wait to leave in one segment."""
        if self._urgent or self.state is not State.WAITING or isinstance(self.question, PauseQuestion):
            return False
        return self.lines.has_line()
