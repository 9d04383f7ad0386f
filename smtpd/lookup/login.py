"""Logins.  Passwords are checked in threads, by a table program, or by the parent (PAM); SCRAM at once.

    CheckCredentials  no table                  CheckPassword -> parent
                      a program with `auth`     user:password -> the program
                      any other table           its credential -> a thread, as a hash is slow on purpose

    BeginScram        salt and iterations: the user's, or for an unknown user made-up ones
    FinishScram       the proof

Neither the answer nor its time shows whether the user exists: without a credential the password is compared with a
decoy of the same cost, and a "no" is sent after a delay that is counted from the question.

SECURITY
    Passwords are kept only while they are checked: never in a log, an exception or a cache.
"""

import asyncio
import hmac
import secrets
from collections import Counter
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from smtpd import imsg
from smtpd.domain_name import normal_address
from smtpd.ipc.channel import Channel, Violation
from smtpd.ipc.log import log, quoted
from smtpd.ipc.request_window import RequestWindow
from smtpd.lookup.listener_tables import ListenerQuestions, ListenerTables, wait_for_answer
from smtpd.lookup.login_failures import NO, TRY_LATER, YES, LoginFailures
from smtpd.slice import USER_NAME, Service
from smtpd.tables import credential, scram
from smtpd.tables.credential import Argon2, Credential, CredentialError, CredentialLocked
from smtpd.tables.program import ProgramTable, ServiceUnavailable
from smtpd.tables.scram import Verifier
from smtpd.tables.table import Answer, Table, TableUnavailable

COMPARE_THREADS, COMPARE_QUEUE_MAX = 2, 32  # threads, and passwords waiting for one
PARENT_QUESTIONS_MAX = 32  # open questions to the parent
RESERVED_FOR_KNOWN = 32  # more of both for known (address, user) pairs
DELAYED_ANSWERS_MAX = 256  # answers delayed at a time; a dispatcher has a bounded number of open questions

DECOY_CREDENTIAL: Credential = Argon2(
    credential.ARGON2_MEMORY,
    credential.ARGON2_PASSES,
    credential.ARGON2_LANES,
    bytes(credential.SALT_SIZE),
    bytes(credential.HASH_SIZE),
)

Result = tuple[str, bytes]  # verdict; and for SCRAM the ServerSignature


class Logins:
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listeners: ListenerQuestions,
        parent: Channel,
        rate: int,
        statistics: Counter[str],
    ):
        self._loop = loop
        self._listeners = listeners
        self._statistics = statistics
        self._failures = LoginFailures(rate)
        self._threads = ThreadPoolExecutor(COMPARE_THREADS, "password")
        self._comparing = self._late = 0
        self._decoys: dict[str, Credential] = {}  # table -> a credential of typical cost
        self._models: dict[str, Verifier] = {}  # table -> one of its verifiers, the model for made-up ones
        self._secret = secrets.token_bytes(32)
        self.to_parent = RequestWindow(parent, PARENT_QUESTIONS_MAX + RESERVED_FOR_KNOWN)

    # -- PLAIN and LOGIN ----------------------------------------------------------------------

    def check(self, dispatcher: Channel, asked: imsg.CheckCredentials) -> None:
        tables = self._tables_of(asked.listener)

        async def answer() -> imsg.CredentialsChecked:
            looking = self._look(tables, asked)
            verdict, _ = await self._guarded(asked.address, asked.user, looking)
            return imsg.CredentialsChecked(asked.request, verdict)

        self._listeners.answer(dispatcher, "a login", answer(), imsg.CredentialsChecked(asked.request, TRY_LATER))

    async def _look(self, tables: ListenerTables, asked: imsg.CheckCredentials) -> Result:
        # An empty password is always wrong: RFC 4616 2 forbids it, and LDAP would accept it (RFC 4513 5.1.2).
        if not asked.user or not asked.password:
            return NO, b""
        reserved = RESERVED_FOR_KNOWN if self._failures.is_known(self._loop.time(), asked.address, asked.user) else 0
        if tables.credentials is None:
            return await self._ask_parent(asked, PARENT_QUESTIONS_MAX + reserved), b""
        if isinstance(tables.credentials, ProgramTable):
            answer = await _ask_program(tables.credentials, asked.user, asked.password)
            if not isinstance(answer, ServiceUnavailable):
                return _verdict(answer), b""
        found = await wait_for_answer(tables.credentials.find(Service.CREDENTIALS, asked.user))
        if isinstance(found, TableUnavailable):
            return _verdict(found), b""
        kept = _understood(tables.credentials, asked.user, found)
        room = COMPARE_THREADS + COMPARE_QUEUE_MAX + reserved
        return await self._compare(tables.credentials, kept, asked.password.encode(), room), b""

    async def _compare(self, table: Table, kept: Credential | None, password: bytes, room: int) -> str:
        decoy = self._decoys.get(table.name, DECOY_CREDENTIAL)
        if kept is not None:
            self._decoys[table.name] = kept
        if self._comparing >= room:
            log.warn("too many passwords to compare")
            return TRY_LATER
        self._comparing += 1
        try:
            fits = await self._loop.run_in_executor(self._threads, (kept or decoy).check, password)
        except OSError as error:
            log.warn(f"table {table.name}: a password cannot be compared: {error.strerror}")
            return TRY_LATER
        finally:
            self._comparing -= 1
        return YES if fits and kept is not None else NO

    async def _ask_parent(self, asked: imsg.CheckCredentials, room: int) -> str:
        if not USER_NAME.fullmatch(asked.user):
            return NO
        if len(self.to_parent) >= room:
            return TRY_LATER
        future: asyncio.Future[str] = self._loop.create_future()

        def checked(answer: imsg.PasswordChecked) -> None:
            if not future.done():
                future.set_result(answer.verdict)

        self.to_parent.ask(
            lambda request: imsg.CheckPassword(request, asked.user, asked.password, asked.address), checked
        )
        return await future

    # -- SCRAM ----------------------------------------------------------------------------------

    def begin_scram(self, dispatcher: Channel, asked: imsg.BeginScram) -> None:
        table = self._table(asked.listener)
        answer = self._begin_scram(table, asked)
        self._listeners.answer(dispatcher, "a login", answer, imsg.ScramBegun(asked.request, TRY_LATER, b"", 0))

    async def _begin_scram(self, table: Table, asked: imsg.BeginScram) -> imsg.ScramBegun:
        if not self._failures.may_ask(self._loop.time(), asked.address, asked.user):
            return imsg.ScramBegun(asked.request, self._counted_out(asked.address), b"", 0)
        verifier = await self._verifier(table, asked.user)
        if isinstance(verifier, TableUnavailable):
            return imsg.ScramBegun(asked.request, _verdict(verifier), b"", 0)
        return imsg.ScramBegun(asked.request, YES, verifier.salt, verifier.iterations)

    def finish_scram(self, dispatcher: Channel, asked: imsg.FinishScram) -> None:
        table = self._table(asked.listener)

        async def answer() -> imsg.ScramFinished:
            finishing = self._finish_scram(table, asked)
            verdict, signature = await self._guarded(asked.address, asked.user, finishing)
            return imsg.ScramFinished(asked.request, verdict, signature)

        self._listeners.answer(dispatcher, "a login", answer(), imsg.ScramFinished(asked.request, TRY_LATER, b""))

    async def _finish_scram(self, table: Table, asked: imsg.FinishScram) -> Result:
        verifier = await self._verifier(table, asked.user)
        if isinstance(verifier, TableUnavailable):
            return _verdict(verifier), b""
        signature = verifier.finish(asked.message, asked.proof)
        return (NO, b"") if signature is None else (YES, signature)

    async def _verifier(self, table: Table, user: str) -> Verifier | TableUnavailable:
        """The user's verifier, or a made-up one that no proof fits, always with the same salt for the same user."""
        found = await wait_for_answer(table.find(Service.CREDENTIALS, user))
        if isinstance(found, TableUnavailable):
            return found
        kept = _understood(table, user, found)
        if isinstance(kept, Verifier):
            self._models.setdefault(table.name, kept)  # the first one: made-up salts must not change
            return kept
        model = self._models.get(table.name)
        iterations, size = (model.iterations, len(model.salt)) if model else (scram.ITERATIONS, scram.SALT_SIZE)
        salt = hmac.digest(self._secret, f"{table.name}\0{normal_address(user)}".encode(), "sha512")[:size]
        return Verifier(iterations, salt, secrets.token_bytes(scram.KEY_SIZE), secrets.token_bytes(scram.KEY_SIZE))

    # -- all mechanisms ----------------------------------------------------------------------------

    def _tables_of(self, listener: int) -> ListenerTables:
        tables = self._listeners.get(listener)
        if not tables.auth:
            raise Violation(f"a login at listener {listener}, which has no auth")
        return tables

    def _table(self, listener: int) -> Table:
        table = self._tables_of(listener).credentials
        if table is None:
            raise Violation(f"SCRAM at listener {listener}, which has no table")
        return table

    async def _guarded(self, address: str, user: str, looking: Coroutine[Any, Any, Result]) -> Result:
        """The result of `looking`, if there were not too many failures; a "no" after its delay."""
        begun = self._loop.time()
        if not self._failures.begin(begun, address, user):
            looking.close()
            return self._counted_out(address), b""
        verdict, signature = TRY_LATER, b""
        try:
            verdict, signature = await looking
        finally:
            self._statistics[f"lookup.login.{verdict}"] += 1
            wait = self._failures.ended(self._loop.time(), address, user, verdict)
        await self._keep_back(begun + wait)
        return verdict, signature

    def _counted_out(self, address: str) -> str:
        self._statistics["lookup.login.counted-out"] += 1
        log.info(f"login from {address} not checked: too many failures")
        return TRY_LATER

    async def _keep_back(self, until: float) -> None:
        if self._late < DELAYED_ANSWERS_MAX:
            self._late += 1
            try:
                await asyncio.sleep(until - self._loop.time())
            finally:
                self._late -= 1


async def _ask_program(table: ProgramTable, user: str, password: str) -> Answer:
    """The first colon ends the user name in the protocol, so a name with a colon is refused."""
    return False if ":" in user else await wait_for_answer(table.check(Service.AUTH, f"{user}:{password}"))


def _verdict(answer: Answer) -> str:
    if isinstance(answer, TableUnavailable):
        log.warn(answer.reason)
        return TRY_LATER
    return YES if answer is True else NO


def _understood(table: Table, user: str, found: Answer) -> Credential | None:
    """The credential in a table's answer; None if no password is right."""
    if not isinstance(found, str):
        return None
    try:
        return credential.parse_credential(found)
    except CredentialLocked:
        return None
    except CredentialError as error:
        log.warn(f"table {table.name}: credentials of {quoted(user)}: {error}")
        return None
