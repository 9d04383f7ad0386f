"""Relayed mail to servers that misbehave at each command: smtp-sink with all that it offers, and servers of ours.

One daemon, and for each case a domain whose server has an address of its own; three mails to each, all side by side.
The first one meets what the case is about.  Afterwards each server is a good one, and the rest of the mail goes there.
A server that stalls does so until all the others have had their mail: it costs nothing but its own.

How long an answer is waited for is tested in tests/smtp/test_client.py, with a clock of its own.
"""

import contextlib
import os
import re
import shlex
import shutil
import smtplib
import ssl
import subprocess
import time
from collections import Counter, defaultdict, deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.live.certificate import Authority
from tests.live.conftest import COMPLETE, running, until
from tests.live.descriptors import sockets
from tests.live.odd_server import OddServer, OddServers, Stage
from tests.live.recipient import envelopes
from tests.live.smtp_sink import LIBRARIES, PROGRAM, needs_sink
from tests.unique import free_port

CONF = """
smtp limit max-mails 10000
listen on 127.0.0.1 port {{port}}
table hosts file:{hosts}
mta limit max-conn-per-host 1
mta limit session-keepalive 2
action "out" relay domain <hosts> helo relay.test
match from any for any action "out"
"""
MAILS = 3  # to each domain
CLIENTS = 8
LONG_LINES = {"content": 6000, "bdat": 1000}  # more than the sockets between two processes hold; than may be unanswered
SETTLED = 120.0  # seconds, on a busy machine
AGAIN = 1.0  # seconds between two orders to try all

# -- what has to come of each case ----------------------------------------------------------------------------

OK, LATER, NEVER, DELAYED = "Ok", "TempFail", "PermFail", "delayed"


class End(NamedTuple):
    """Of the first mail.  `connection`: of the next one; 0 where that does not matter."""

    result: str
    reason: str = ""  # a pattern
    connection: int = 0


CLOSED = "onnection (closed by the server|reset by peer)"
BROKEN = {
    "disconnect": CLOSED,
    "reset": CLOSED,
    "half": CLOSED,
    "stall": CLOSED,
    "long": "not a reply: Line too long",
    "endless_line": "not a reply: Line too long",
    "lines": "not a reply: Too many lines",
    "endless_lines": "not a reply: Too many lines",
    "wrong": "unexpected (354|250)",
    "twice": "unexpected|more than it was asked",
    "intermediate": "not a reply: A line without a code",
    "babble": "not a reply: A line without a code",
    "nul": "not a reply: Bare <CR> or NUL",
    "bare_cr": "not a reply: Bare <CR> or NUL",
    "bare_lf": "not a reply: A line ends with",
    "two_codes": "not a reply: Lines with different codes",
    "shutdown": "ends the session: 421 4.3.2 shutting down",
}
TWICE = ".*; the mail had been sent and may arrive twice"
SOFT, HARD = "450 4.2.0 not now", "550 5.7.1 never"
REFUSED = End(NEVER, "550 5.1.1 no such user", 2)
AT_BANNER = {
    **{act: End(DELAYED, why) for act, why in BROKEN.items()},
    "pieces": End(OK, "", 1),
    "slow_lines": End(OK, "", 1),
}
AT_COMMAND = {**AT_BANNER, "soft": End(LATER, SOFT, 1), "hard": End(NEVER, HARD, 1)}
AT_END = {
    **AT_COMMAND,
    **{act: End(LATER, reason + TWICE) for act, reason in BROKEN.items()},
    "shutdown": End(DELAYED, BROKEN["shutdown"]),
    "twice": End(OK, "", 2),
}
IN_CONTENT = ("disconnect", "reset", "stall", "long", "endless_line", "nul", "babble", "shutdown", "soft", "hard")
OF_CHUNKS = (*IN_CONTENT, "half", "lines", "endless_lines", "bare_lf", "pieces")

ENDS = {
    Stage.BANNER: AT_BANNER | {"soft": End(DELAYED, SOFT), "hard": End(DELAYED, HARD)},
    Stage.EHLO: AT_BANNER | {"soft": End(DELAYED, SOFT), "hard": End(OK, "", 1)},  # HELO
    Stage.STARTTLS: {act: End(OK, "", 2) for act in BROKEN}  # in the clear, RFC 7435
    | dict.fromkeys(("pieces", "slow_lines", "soft", "hard"), End(OK, "", 1)),
    Stage.HANDSHAKE: dict.fromkeys(("disconnect", "reset", "stall", "babble"), End(OK, "", 2)),
    Stage.MAIL: AT_COMMAND,
    Stage.RCPT: AT_COMMAND,
    Stage.DATA: AT_COMMAND,
    Stage.CONTENT: {act: AT_COMMAND[act] for act in IN_CONTENT}
    | {"soft": End(LATER, SOFT, 2), "hard": End(NEVER, HARD, 2)}
    # The reset of a connection with unread content may be faster than the reply.
    | {"shutdown": End(DELAYED, f"{BROKEN['shutdown']}|{CLOSED}")},
    Stage.DOT: AT_END,
    Stage.BDAT: {act: AT_COMMAND[act] for act in OF_CHUNKS},
    Stage.LAST: {act: AT_END[act] for act in (*OF_CHUNKS, "twice")},
    Stage.RSET: dict.fromkeys((*BROKEN, "soft", "hard"), REFUSED)
    | dict.fromkeys(("pieces", "slow_lines"), REFUSED._replace(connection=1)),
    Stage.QUIT: dict.fromkeys((*BROKEN, "soft", "hard", "pieces"), End(OK, "", 1)),
}
ODD = {f"{stage}-{act}": (stage, act, end) for stage, ends in ENDS.items() for act, end in ends.items()}

SINK_SOFT, SINK_HARD = "450 4.3.0 Error: command failed", "500 5.3.0 Error: command failed"
SINK_CLOSED, SINK_421 = CLOSED, "421 4.0.0 Server closing connection"
COMMANDS = ("mail", "rcpt", "data")
SINKS = {
    # options of smtp-sink -> what becomes of the first mail, and of the others
    "": OK, "-8": OK, "-a": OK, "-C": OK, "-e": OK, "-E": OK, "-F": OK, "-N": OK, "-p": OK, "-P": OK, "-e -8 -p -N": OK,
    "-h mx.sink.test": OK, "-w 1": OK, "-W ehlo:1": OK, "-H 1": OK, "-T 1024": OK, "-t 1": OK, "-m 1": OK,
    "-A 0": End(NEVER, "550"),
    "-q quit": OK, "-Q quit": OK, "-r quit": OK, "-f quit": OK, "-f ehlo": OK,
    **{f"-q {command}": End(DELAYED, SINK_CLOSED) for command in ("connect", "ehlo", *COMMANDS)},
    **{f"-Q {command}": End(DELAYED, SINK_421) for command in ("connect", "ehlo", *COMMANDS, ".")},
    **{f"-r {command}": End(DELAYED, SINK_SOFT) for command in ("connect", "ehlo")},
    **{f"-r {command}": End(LATER, SINK_SOFT) for command in (*COMMANDS, ".")},
    **{f"-f {command}": End(NEVER, SINK_HARD) for command in (*COMMANDS, ".")},
    **{f"-f rcpt {option} rset": End(NEVER, SINK_HARD) for option in ("-q", "-Q", "-r")},
    "-f connect": End(DELAYED, SINK_HARD),
    "-q .": End(LATER, SINK_CLOSED + TWICE),
    "-r rcpt -b '452 4.5.3 too many'": End(LATER, "452 4.5.3 too many"),
    "-f rcpt -B '521 5.3.2 no mail'": End(NEVER, "521 5.3.2 no mail"),
}  # fmt: skip


class Case(NamedTuple):
    name: str
    number: int
    port: int

    @property
    def address(self):
        return f"127.0.{1 + self.number // 200}.{1 + self.number % 200}"

    @property
    def domain(self):
        return re.sub(r"[^a-z0-9]+", "-", f"case{self.number} {self.name.lower()}").strip("-") + ".test"

    def subject(self, number):
        return f"{number} to {self.domain}"


# -- the play -------------------------------------------------------------------------------------------------

END = re.compile(
    r' mta delivery .*to=<bob@(\S+)> .*result="(\w+)" stat="(.*)"$| relay: (\S+) (delayed) for \d+ s: (.*)$',
    re.MULTILINE,
)


class Play:
    """What has come of it.  By name of a case: `servers`; `replaced`, those in the place of smtp-sink.

    ends      of attempts, up to the first one of each mail
    left      recipients of mail that was still there when each had been tried
    stalled   cases whose server had not answered when all the others had
    """

    def __init__(self, daemon, cases, servers):
        self.daemon, self.cases, self.servers, self.replaced = daemon, cases, servers, {}
        self.ends_of = defaultdict(list)  # domain -> as in `ends`
        self.left, self.stalled = set(), []

    def ends(self, case):
        """(result, reply) of each attempt, in their order; (DELAYED, reason)."""
        return self.ends_of[case.domain]

    def read_log(self):
        self.ends_of = defaultdict(list)
        for match in END.finditer(self.daemon.log):
            domain, result, reply = filter(None, match.groups())
            self.ends_of[domain].append((result, reply))

    def wait_for(self, cases):
        """All mails to these have been tried, or their destinations rest."""

        def are_settled():
            self.read_log()
            return all(map(self.is_settled, cases))

        until(are_settled, SETTLED, what="an end of each mail")

    def finish(self):
        """All mail that is left goes to the servers, which are good ones now."""

        def is_empty():
            self.daemon.smtpctl("schedule", "all")
            time.sleep(AGAIN)
            return not envelopes(self.daemon)

        until(is_empty, SETTLED, what="the delivery of all mail")

    def is_settled(self, case):
        """Each mail has been tried, or the destination rests."""
        ends = self.ends(case)
        return len(ends) >= MAILS or any(result == DELAYED for result, _ in ends)


def send_all(daemon, cases):
    """By several clients at a time, of which each sends all mails of a case one after the other."""
    left = deque(cases)

    def send():
        with smtplib.SMTP("127.0.0.1", daemon.port, local_hostname="client.test", timeout=60) as client:
            while left:
                case = left.popleft()
                for number in range(1, MAILS + 1):
                    client.sendmail("", [f"bob@{case.domain}"], content_of(case, number))  # nobody is told of failures

    with ThreadPoolExecutor(CLIENTS) as clients:
        for sent in [clients.submit(send) for _ in range(CLIENTS)]:
            sent.result()


def content_of(case, number):
    """The last one is in a file; the first one, too, where something is to happen while it is sent."""
    lines = LONG_LINES.get(case.name.partition("-")[0], 3) if number == 1 else 100 if number == MAILS else 3
    return COMPLETE + f"Subject: {case.subject(number)}\r\n\r\n.\r\n".encode() + (b"x" * 990 + b"\r\n") * lines


@contextlib.contextmanager
def sinks_running(cases):
    """smtp-sink for each of them."""
    environment = {**os.environ, "LD_LIBRARY_PATH": LIBRARIES}
    with contextlib.ExitStack() as running_sinks:
        for case in cases:
            command = [PROGRAM, "-u", "nobody", *shlex.split(case.name), f"{case.address}:{case.port}", "16"]
            process = running_sinks.enter_context(subprocess.Popen(command, env=environment))
            running_sinks.callback(process.kill)
        yield


@pytest.fixture(scope="module")
def context(ground):
    certificate, key = Authority("odd").issue("odd.test").write(ground, "odd")
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(certificate, key)
    return made


@pytest.fixture(scope="module")
def play(ground, users, context, tmp_path_factory):
    """Told in full above."""
    port = free_port()
    names = [*ODD, *(SINKS if PROGRAM.exists() else ())]
    cases = {name: Case(name, number, port) for number, name in enumerate(names)}
    hosts = ground / "odd-hosts"
    hosts.write_text("".join(f"{case.domain} smtp://{case.address}:{port}\n" for case in cases.values()))
    odd = {name: OddServer(cases[name].address, port, *ODD[name][:2]) for name in ODD}
    of_sinks = [case for name, case in cases.items() if name in SINKS]
    stalling = [case for name, case in cases.items() if name.endswith("-stall")]
    with OddServers(odd.values(), context) as servers, running(ground, CONF.format(hosts=hosts)) as daemon:
        played = Play(daemon, cases, odd)
        begun = time.monotonic()
        with sinks_running(of_sinks):
            send_all(daemon, cases.values())
            played.wait_for([case for case in cases.values() if case not in stalling])
            played.stalled = [case.name for case in stalling if not played.ends(case)]
            servers.release()
            played.wait_for(stalling)
        played.left = {row[6] for row in envelopes(daemon)}
        played.replaced = {case.name: OddServer(case.address, port) for case in of_sinks}
        servers.add(played.replaced.values())
        played.finish()
        print(f"{len(cases)} cases in {time.monotonic() - begun:.0f} s")
        shutil.copy(daemon.log_path, tmp_path_factory.mktemp("odd") / "log")
        yield played


# -- what it shows --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ODD)
def test_an_odd_server(play, name):
    """The first mail has its right end; it and all others arrive, once each, unless it may have been taken before."""
    _, _, expected = ODD[name]
    case, mails = play.cases[name], play.servers[name].mails
    (result, reason), *more = play.ends(case)
    assert result == expected.result and re.search(expected.reason, reason), (result, reason)
    if result != DELAYED:
        assert [result for result, _ in more] == [OK] * (MAILS - 1)
    assert (f"bob@{case.domain}" in play.left) == (expected.result in (LATER, DELAYED))
    copies = Counter(mail.subject for mail in mails)
    first = 0 if expected.result == NEVER else 2 if TWICE in expected.reason else 1
    assert copies == Counter({case.subject(1): first, case.subject(2): 1, case.subject(3): 1})
    assert all(mail.recipients == (f"bob@{case.domain}",) for mail in mails)
    second = next(mail.connection for mail in mails if mail.subject == case.subject(2))
    assert expected.connection in (0, second)


@needs_sink
@pytest.mark.parametrize("options", SINKS)
def test_smtp_sink(play, options):
    """It goes on as it has begun; afterwards all that it has not taken goes to another server in its place."""
    expected = SINKS[options] if isinstance(SINKS[options], End) else End(OK)
    case = play.cases[options]
    ends = play.ends(case)
    assert {result for result, _ in ends} == {expected.result}, ends
    assert all(re.search(expected.reason, reason) for _, reason in ends), ends
    assert (f"bob@{case.domain}" in play.left) == (expected.result in (LATER, DELAYED))
    left = [] if expected.result in (OK, NEVER) else [case.subject(number) for number in range(1, MAILS + 1)]
    assert sorted(mail.subject for mail in play.replaced[options].mails) == left


def test_a_server_that_stalls_keeps_no_other_mail(play):
    assert play.stalled == [name for name in ODD if name.endswith("-stall") and name != "quit-stall"]


def test_all_of_it_leaves_nothing_behind(play):
    """No traceback, and no connection that is still open when nothing is to be sent any more."""
    daemon = play.daemon
    warnings = [line for line in daemon.log.splitlines() if line.startswith("warn: ") and "DANE is off" not in line]
    assert "Traceback" not in daemon.log and not warnings
    pid = daemon.pids()["dispatcher"]
    until(lambda: connections(pid, play.cases.values()) == [], what="the end of all connections")
    assert daemon.stop() == 0


def connections(pid, cases):
    """The TCP connections of a process to the servers."""
    port = next(iter(cases)).port
    table = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    inodes = {int(fields[9]) for fields in table if fields[2].endswith(f":{port:04X}") and fields[3] != "06"}
    return [inode for inode in sockets(pid).values() if inode in inodes]
