"""The message that a session receives: its id, its content, and the answer of queue.

    begin     an id (message_ids.py)
    add       content in memory or in a spool file (content.py)
    store     StoreMessage -> MessageStored | MessageRefused
    forget    ForgetMessage: neither content nor envelopes are wanted

After queue has answered StoreMessage it is not told to forget the message.
"""

from collections.abc import Callable

from smtpd.dispatcher.inbound.content import IncomingContent
from smtpd.dispatcher.inbound.resources import Resources
from smtpd.imsg import ForgetMessage, MessageRefused, MessageStored, StoreMessage
from smtpd.smtp.question import Answer, MessageIdAnswer, RefusedAnswer, StoreAnswer, StoreQuestion


class IncomingMessage:
    def __init__(self, resources: Resources, answered: Callable[[Answer], None], drained: Callable[[], None]):
        self._resources, self._answered, self._drained = resources, answered, drained
        self._content: IncomingContent | None = None
        self._answered_message = 0  # the last one that queue has stored or refused
        self._over = False

    @property
    def full(self) -> bool:
        """Read no further: writing to the spool file lags behind."""
        return self._content is not None and self._content.full

    def begin(self) -> None:
        self._resources.message_ids.take(self._begun)

    def add(self, data: bytes) -> None:
        assert self._content is not None
        self._content.add(data)

    def store(self, question: StoreQuestion) -> None:
        assert self._content is not None
        self._content.finish(lambda content: self._store(question, content))

    def forget(self, message: int, envelopes: int) -> None:
        self._drop()
        if message != self._answered_message:
            self._resources.queue.send(ForgetMessage(message, envelopes))

    def close(self) -> None:
        """The client is gone.  A `store` whose content is still being written is answered: it will not be stored."""
        self._over = True
        self._drop()

    def _begun(self, message: int) -> None:
        resources = self._resources
        if not self._over:
            self._content = IncomingContent(
                message, resources.memory, resources.to_queue, resources.loop, resources.writers, self._drained
            )
        self._answered(MessageIdAnswer(message, int(resources.now())))

    def _store(self, question: StoreQuestion, content: bytes | RefusedAnswer) -> None:
        self._drop()
        if isinstance(content, RefusedAnswer):
            self._answered(content)
            return
        self._resources.to_queue.ask(
            lambda request: StoreMessage(request, question.message, question.envelopes, content, question.size),
            lambda imsg: self._stored(question.message, imsg),
            len(content),
        )

    def _stored(self, message: int, imsg: MessageStored | MessageRefused) -> None:
        self._answered_message = message
        if isinstance(imsg, MessageStored):
            self._answered(StoreAnswer())
        else:
            self._answered(RefusedAnswer(imsg.code, imsg.enhanced, imsg.text))

    def _drop(self) -> None:
        content, self._content = self._content, None
        if content is not None:
            content.close()
