"""Messages that are being received: from an id that was handed out to the commit.

    dispatcher  OpenSpoolFile           once, for content that is large, or that the dispatcher has no memory for
    lookup      AddEnvelopes            any number of times
    dispatcher  StoreMessage(count)     when all `count` envelopes are there: seal, commit, MessageStored
                ForgetMessage(count)    when all are there: gone.  Until then a tombstone takes what is still on its way

The envelopes come along another channel than the rest, so the end may be announced before the last of them is here.
More than announced, a second end, an id of another process: no process of ours does that, so it is fatal.
"""

import errno
import hashlib
import os
import time
from collections.abc import Callable
from functools import partial

from smtpd.envelope import (
    INLINE_MAX,
    Duty,
    MailParameters,
    MessageId,
    Origin,
    Recipient,
    Schedule,
    envelope_id,
    message_text,
)
from smtpd.imsg import (
    AddEnvelopes,
    ForgetMessage,
    MessageIdsReserved,
    MessageRefused,
    MessageStored,
    OpenSpoolFile,
    ReserveMessageIds,
    SpoolFileOpened,
    SpoolFileRefused,
    StoreMessage,
)
from smtpd.ipc.channel import Channel, Violation
from smtpd.ipc.log import log
from smtpd.ipc.os_error import describe_error
from smtpd.queue.delivery.expiry import expiry, find_fault
from smtpd.queue.incoming_pipe import IncomingPipe
from smtpd.queue.message_ids import Blocks
from smtpd.queue.reservation import Reservations
from smtpd.queue.store.disk import Disk
from smtpd.queue.store.spool import NewCodedFile, store_error
from smtpd.queue.store.store import AS_IT_CAME, Add, ContentDamaged, Envelope, Message, StoreBroken, StoreFull, untried

NO_SPACE = 452, "4.3.1", "Insufficient system storage"
TROUBLE = 451, "4.3.0", "Temporary failure"
DEFAULT_LIFETIME = 4 * 86400  # seconds, for an action that is not in the configuration; lookup names none such


class _Receiving:
    """One message on its way in."""

    __slots__ = ("id", "recipients", "terms", "own_descriptor", "pipe", "opening", "announced", "question")

    def __init__(self, message: MessageId):
        self.id = message
        self.recipients: list[tuple[Origin, Recipient]] = []
        self.terms: MailParameters | None = None
        self.own_descriptor: int | None = None  # of its spool file
        self.pipe: IncomingPipe | None = None  # to that file, where content is coded
        self.opening = False
        self.announced: int | None = None  # how many envelopes, by StoreMessage or ForgetMessage
        # Set by StoreMessage; `announced` without it means ForgetMessage.
        self.question: tuple[Channel, StoreMessage] | None = None

    @property
    def has_file(self) -> bool:
        return self.own_descriptor is not None or self.pipe is not None

    @property
    def complete(self) -> bool:
        return self.announced == len(self.recipients) and not self.opening


class Incoming:
    """`lifetimes`: of envelopes in seconds, by action; `lane_of`: the lane of an envelope and the number of its
    sender; `submitted` gets the schedules of each stored message."""

    def __init__(
        self,
        disk: Disk,
        reservations: Reservations,
        blocks: Blocks,
        lifetimes: dict[str, int],
        lane_of: Callable[[Envelope], tuple[int, int]],
        submitted: Callable[[list[Schedule]], None],
        now: Callable[[], float] = time.time,
    ):
        self._disk, self._reservations, self._blocks, self._now = disk, reservations, blocks, now
        self._lifetimes, self._lane_of, self._submitted = lifetimes, lane_of, submitted
        self._receiving: dict[int, _Receiving] = {}

    def __len__(self) -> int:
        return len(self._receiving)

    def _get(self, message: int) -> _Receiving:
        receiving = self._receiving.get(message)
        if receiving is None:
            receiving = self._receiving[message] = _Receiving(message)
        return receiving

    # -- ids --------------------------------------------------------------------------------------------------------

    def reserve(self, channel: Channel, imsg: ReserveMessageIds) -> None:
        self._blocks.reserve(channel.number, lambda ids: channel.send(MessageIdsReserved(imsg.request, ids)))

    # -- what comes in ------------------------------------------------------------------------------------------------

    def add_envelopes(self, imsg: AddEnvelopes) -> None:
        self._reservations.check_any(imsg.message)
        receiving = self._get(imsg.message)
        if fault := self._find_fault(receiving, imsg):
            raise Violation(f"lookup adds {fault} to message {message_text(imsg.message)}")
        receiving.terms = imsg.terms
        receiving.recipients += ((imsg.origin, recipient) for recipient in imsg.recipients)
        if receiving.announced is not None:
            self._check_count(receiving)
            self._proceed(receiving)

    def _find_fault(self, receiving: _Receiving, imsg: AddEnvelopes) -> str:
        if any(recipient.duty in (Duty.READ, Duty.EXPAND) for recipient in imsg.recipients):
            return "an envelope that is no delivery"
        if receiving.terms not in (None, imsg.terms):
            return "other terms than before"
        return find_fault(imsg.terms, imsg.recipients, int(self._now()))

    def _check_count(self, receiving: _Receiving) -> None:
        assert receiving.announced is not None
        if len(receiving.recipients) > receiving.announced:
            raise Violation(
                f"message {message_text(receiving.id)} has {len(receiving.recipients)} envelopes,"
                f" {receiving.announced} were announced"
            )

    def open_spool_file(self, channel: Channel, imsg: OpenSpoolFile) -> None:
        self._reservations.check(channel.number, imsg.message)
        receiving = self._get(imsg.message)
        if receiving.has_file or receiving.opening or receiving.announced is not None:
            raise Violation(f"dispatcher {channel.number} wants a second spool file for {message_text(imsg.message)}")
        if self._disk.commits.repairing:
            channel.send(SpoolFileRefused(imsg.request, *TROUBLE))
        elif not self._disk.space.take(INLINE_MAX):  # its size is not known yet; most content in files is larger
            channel.send(SpoolFileRefused(imsg.request, *NO_SPACE))
        else:
            receiving.opening = True
            spool = self._disk.spool
            create = spool.create_coded if spool.codec.is_active else spool.create
            self._disk.work(partial(create, imsg.message), partial(self._created, channel, imsg, receiving))

    def _created(
        self,
        channel: Channel,
        imsg: OpenSpoolFile,
        receiving: _Receiving,
        new: NewCodedFile | tuple[int, int] | None,
        error: BaseException | None,
    ) -> None:
        receiving.opening = False
        if isinstance(new, NewCodedFile):
            receiving.pipe = IncomingPipe(self._disk.loop, self._disk, receiving.id, new)
            channel.send(SpoolFileOpened(imsg.request), new.writing)
        elif new is not None:
            theirs, receiving.own_descriptor = new
            channel.send(SpoolFileOpened(imsg.request), theirs)
        else:
            channel.send(SpoolFileRefused(imsg.request, *self._refusal(receiving, error)))
        self._proceed(receiving)

    def store_message(self, channel: Channel, imsg: StoreMessage) -> None:
        receiving = self._announce_end(channel, imsg.message, imsg.envelopes)
        spooled = receiving.has_file
        if not imsg.envelopes or (imsg.content and (spooled or imsg.size != len(imsg.content))):
            raise Violation(f"dispatcher {channel.number} stores a message that cannot be")
        if len(imsg.content) > INLINE_MAX or (not imsg.content and not (spooled and imsg.size)):
            raise Violation(f"dispatcher {channel.number} stores content that cannot be")
        receiving.question = channel, imsg
        self._proceed(receiving)

    def forget_message(self, channel: Channel, imsg: ForgetMessage) -> None:
        self._proceed(self._announce_end(channel, imsg.message, imsg.envelopes))

    def _announce_end(self, channel: Channel, message: int, envelopes: int) -> _Receiving:
        self._reservations.check(channel.number, message)
        receiving = self._get(message)
        if receiving.announced is not None:
            raise Violation(f"dispatcher {channel.number} ends message {message_text(message)} twice")
        receiving.announced = envelopes
        self._check_count(receiving)
        return receiving

    # -- the end --------------------------------------------------------------------------------------------------

    def _proceed(self, receiving: _Receiving) -> None:
        if not receiving.complete:
            return
        if receiving.question is None:
            self._discard(receiving)
            return
        _, imsg = receiving.question
        try:
            if not self._disk.space.take(imsg.size):  # a spool file: its whole size, known only now
                self._refuse(receiving, StoreFull("the reserve of the spool is reached"))
            elif self._disk.commits.repairing:
                self._refuse(receiving, StoreBroken("the store is being repaired"))
            elif receiving.pipe is not None:
                receiving.pipe.finish(imsg.size, partial(self._sealed, receiving))
            elif receiving.own_descriptor is None:
                self._commit(receiving, hashlib.sha256(imsg.content).digest(), imsg.content)
            else:
                seal = partial(self._disk.spool.seal, receiving.id, receiving.own_descriptor, imsg.size)
                self._disk.work(seal, partial(self._sealed, receiving))
        except Exception as error:  # noqa: BLE001  (one mail, rule R8)
            self._refuse(receiving, error)

    def _sealed(self, receiving: _Receiving, digest: bytes | None, error: BaseException | None) -> None:
        if digest is None:
            if isinstance(error, StoreBroken):
                self._disk.commits.failed(error)
            self._refuse(receiving, error)
            return
        try:
            self._commit(receiving, digest, None)
        except Exception as raised:  # noqa: BLE001  (one mail, rule R8)
            self._refuse(receiving, raised)

    def _commit(self, receiving: _Receiving, digest: bytes, content: bytes | None) -> None:
        assert receiving.question is not None and receiving.terms is not None
        _, imsg = receiving.question
        created = int(self._now())
        envelopes = [
            self._envelope(envelope_id(receiving.id, number), created, origin, recipient, receiving.terms)
            for number, (origin, recipient) in enumerate(receiving.recipients, 1)
        ]
        coding = receiving.pipe.coding if receiving.pipe is not None else AS_IT_CAME
        add = Add(Message(receiving.id, imsg.size, digest, content, coding), envelopes)
        self._disk.commits.submit(add, partial(self._stored, receiving, add))

    def _envelope(self, id: int, created: int, origin: Origin, recipient: Recipient, terms: MailParameters) -> Envelope:
        expires = expiry(terms, created, self._lifetimes.get(recipient.action, DEFAULT_LIFETIME))
        return untried(id, self._disk.store.run, created, expires, origin, recipient, terms, terms.release)

    def _stored(self, receiving: _Receiving, add: Add, error: Exception | None) -> None:
        if error is not None:
            self._refuse(receiving, error)
            return
        assert receiving.question is not None
        channel, imsg = receiving.question
        channel.send(MessageStored(imsg.request))
        self._disk.cache.keep(add.message, add.envelopes)
        self._submitted([envelope.schedule(*self._lane_of(envelope)) for envelope in add.envelopes])
        self._close(receiving)

    def _refuse(self, receiving: _Receiving, error: BaseException | None) -> None:
        assert receiving.question is not None
        channel, imsg = receiving.question
        channel.send(MessageRefused(imsg.request, *self._refusal(receiving, error)))
        self._discard(receiving)

    def _refusal(self, receiving: _Receiving, error: BaseException | None) -> tuple[int, str, str]:
        """Code, enhanced code and text for the client; the reason is for our own log."""
        if isinstance(error, OSError) and error.errno in (errno.EIO, errno.ENOSPC, errno.EDQUOT):
            error = store_error(error)
        what = f"message {message_text(receiving.id)} refused"
        if isinstance(error, StoreFull | StoreBroken | ContentDamaged | OSError):
            log.warn(f"{what}: {describe_error(error)}")
        elif error is not None:
            log.trouble(what, error)
        return NO_SPACE if isinstance(error, StoreFull) else TROUBLE

    def _discard(self, receiving: _Receiving) -> None:
        """Close it without having stored it."""
        if receiving.has_file:
            self._disk.remove_files([receiving.id])
        self._close(receiving)

    def _close(self, receiving: _Receiving) -> None:
        """Forget a message that nothing more can come for; its id is used up."""
        if receiving.own_descriptor is not None:
            os.close(receiving.own_descriptor)
        if receiving.pipe is not None:
            receiving.pipe.close()
        del self._receiving[receiving.id]
        self._reservations.spend(receiving.id)
