"""smtpctl as it is called, with a control that the test plays."""

import json
import os
import pty
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from smtpd.envelope import Kind, Origin, QueueEntry, Recipient, Schedule, first_envelope, last_envelope
from smtpd.imsg import (
    ContentNotOpened,
    ContentOpened,
    DeliveriesPaused,
    Denied,
    DestinationsFound,
    DomainsListed,
    Done,
    EnvelopesListed,
    EnvelopesRemoved,
    EnvelopesScheduled,
    EnvelopesSelected,
    EnvelopesSuspended,
    FindDestinations,
    HostsListed,
    ListDomains,
    ListenersPaused,
    ListEnvelopes,
    ListHosts,
    ListPaused,
    ListRelays,
    ListRoutes,
    OpenContent,
    PauseDeliveries,
    PausedListed,
    PauseListeners,
    PauseRelaying,
    QuarantineListed,
    RelayingPaused,
    RelaysListed,
    RemoveEnvelopes,
    ResumeRoute,
    RouteResumed,
    RoutesListed,
    ScheduleEnvelopes,
    SelectEnvelopes,
    SetVerbose,
    StatisticsShown,
    SuspendEnvelopes,
    TableUpdated,
    UpdateTable,
)
from smtpd.ipc import query
from smtpd.ipc.query import Answer
from smtpd.relay_entry import NEVER, ConnectorEntry, DomainEntry, HostEntry, RelayEntry, RouteEntry
from smtpd.selection import Selection

TOP = Path(__file__).parent.parent.parent
ALL = first_envelope(1), last_envelope(2**31 - 1)
EVPID = 0x1A2B3C4D00000001


def entry(number):
    return QueueEntry(
        Schedule(EVPID + number, Kind.MDA, 1000, 2000, 0, 0, False, False),
        Origin("amy@there.test", "local", "client", "helo", "mx", "", True),
        Recipient("bob@here.test", "bob", "local", Kind.MDA, "bob", ""),
        0,
        "",
        False,
        10,
    )


# -- looking --------------------------------------------------------------------------------


def test_show_queue_asks_for_a_page_after_the_other(control):
    pages = [EnvelopesListed(1, [entry(0), entry(1)], EVPID + 2), EnvelopesListed(1, [entry(2)], 0)]
    shown = control.run("show", "queue", answers=[*pages])
    assert [line.partition("|")[0] for line in shown.stdout.splitlines()] == [f"{EVPID + n:016x}" for n in range(3)]
    assert control.asked == [ListEnvelopes(1, *ALL), ListEnvelopes(1, EVPID + 2, ALL[1])]
    assert (shown.returncode, shown.stderr) == (0, "")


def test_show_queue_of_a_message_asks_for_its_envelopes(control):
    control.run("show", "queue", "1a2b3c4d", answers=[EnvelopesListed(1, [], 0)])
    assert control.asked == [ListEnvelopes(1, first_envelope(0x1A2B3C4D), last_envelope(0x1A2B3C4D))]


def test_selected_envelopes_are_shown_page_by_page(control):
    pages = [EnvelopesListed(1, [entry(0)], EVPID + 2), EnvelopesListed(1, [], EVPID + 9), EnvelopesListed(1, [], 0)]
    shown = control.run("show", "queue", "from", "@spam.test", answers=[*pages])
    assert shown.stdout.startswith(f"{EVPID:016x}|") and shown.returncode == 0
    meant = Selection(senders=["*@spam.test"])
    assert control.asked == [ListEnvelopes(1, first, ALL[1], meant) for first in (ALL[0], EVPID + 2, EVPID + 9)]


@pytest.mark.parametrize("words", ["remove from @spam.test", "hold from @spam.test", "release from @spam.test"])
def test_a_dry_run_shows_and_changes_nothing(control, words):
    shown = control.run("-n", *words.split(), answers=[EnvelopesListed(1, [entry(0)], 0)])
    assert shown.stdout.startswith(f"{EVPID:016x}|") and shown.returncode == 0
    assert control.asked == [ListEnvelopes(1, *ALL, Selection(senders=["*@spam.test"]))]


def test_a_dry_run_of_one_envelope_and_of_what_takes_none(control):
    shown = control.run("-n", "remove", f"{EVPID:016x}", answers=[EnvelopesListed(1, [entry(0)], 0)])
    assert shown.stdout.startswith(f"{EVPID:016x}|") and control.asked == [ListEnvelopes(1, EVPID, EVPID)]
    shown = control.run("-n", "pause", "mda")
    assert (shown.returncode, shown.stderr) == (255, "smtpctl: -n is not for pause mda\n")


SOME = [EVPID, EVPID + 5]


@pytest.mark.parametrize(
    ("word", "orders", "answers", "done"),
    [
        ("remove", [RemoveEnvelopes], [EnvelopesRemoved(1, 2)], "removed"),
        ("schedule", [ScheduleEnvelopes], [EnvelopesScheduled(1, 2)], "scheduled"),
        ("hold", [SuspendEnvelopes], [EnvelopesSuspended(1, 2)], "paused"),
        ("pause envelope", [SuspendEnvelopes], [EnvelopesSuspended(1, 2)], "paused"),
        ("resume envelope", [SuspendEnvelopes], [EnvelopesSuspended(1, 2)], "resumed"),
        (
            "release",
            [SuspendEnvelopes, ScheduleEnvelopes],
            [EnvelopesSuspended(1, 1), EnvelopesScheduled(1, 2)],
            "released",
        ),
    ],
)
def test_a_selection_is_changed_batch_by_batch(control, word, orders, answers, done):
    parts = [EnvelopesSelected(1, [], EVPID), EnvelopesSelected(1, SOME, EVPID + 9), EnvelopesSelected(1, SOME, 0)]
    said = control.run(*word.split(), "error", "full", answers=[parts[0], parts[1], *answers, parts[2], *answers])
    assert (said.stdout, said.stderr, said.returncode) == (f"4 envelopes {done}\n", "", 0)
    selects = [imsg for imsg in control.asked if isinstance(imsg, SelectEnvelopes)]
    assert selects == [SelectEnvelopes(1, at, Selection(errors=["*full*"])) for at in (ALL[0], EVPID, EVPID + 9)]
    changes = [imsg for imsg in control.asked if imsg not in selects]
    assert [type(imsg) for imsg in changes] == orders * 2
    assert all((imsg.first, imsg.last, imsg.envelopes) == (SOME[0], SOME[1], SOME) for imsg in changes)
    wanted = [imsg.suspended for imsg in changes if isinstance(imsg, SuspendEnvelopes)]
    assert set(wanted) <= {word in ("hold", "pause envelope")}


def test_a_selection_that_means_none_says_so(control):
    said = control.run("remove", "from", "<>", answers=[EnvelopesSelected(1, [], 0)])
    assert (said.stdout, said.returncode) == ("0 envelopes removed\n", 0)
    assert said.stderr == "smtpctl: none is selected, or none that this would change\n"


def test_a_queue_that_cannot_be_read_half_way_says_what_was_done(control):
    answers = [EnvelopesSelected(1, SOME, EVPID + 9), EnvelopesRemoved(1, 2), EnvelopesSelected(1, [], 0, "broken")]
    said = control.run("remove", "from", "<>", answers=answers)
    assert (said.stderr, said.returncode) == ("smtpctl: broken (2 removed before)\n", 1)


def test_a_selection_that_makes_no_sense_asks_nothing(control):
    said = control.run("remove", "older", "soon")
    assert (said.returncode, control.asked) == (255, [])
    assert said.stderr == "smtpctl: not a time: soon (as 90s, 15m, 4h, 2d, 1w, 1d12h)\n"


def test_show_queue_as_json_is_an_object_a_line(control):
    shown = control.run("-j", "show", "queue", answers=[EnvelopesListed(1, [entry(0), entry(1)], 0)])
    assert [json.loads(line)["user"] for line in shown.stdout.splitlines()] == ["bob", "bob"]


def test_a_closed_pipe_is_no_error(control):
    script = f"{sys.executable} -m smtpctl --state {control.folder} show queue | head -1"
    control.answers[:] = [EnvelopesListed(1, [entry(n) for n in range(3000)], 0)]
    shown = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=20, check=True, cwd=TOP)
    assert len(shown.stdout.splitlines()) == 1 and shown.stderr == ""


def test_show_envelope(control):
    shown = control.run("show", "envelope", f"{EVPID:016x}", answers=[EnvelopesListed(1, [entry(0)], 0)])
    assert shown.stdout.startswith("evpid: 1a2b3c4d00000001\n")
    assert control.asked == [ListEnvelopes(1, EVPID, EVPID)]


def test_an_envelope_that_is_not_there(control):
    shown = control.run("show", "envelope", f"{EVPID:016x}", answers=[EnvelopesListed(1, [], 0)])
    assert (shown.returncode, shown.stderr) == (1, "smtpctl: no envelope 1a2b3c4d00000001\n")


@pytest.fixture
def content(tmp_path):
    def make(data):
        (tmp_path / "content").write_bytes(data)
        return ContentOpened(1), os.open(tmp_path / "content", os.O_RDONLY)

    return make


def test_show_message_is_byte_for_byte(control, content):
    data = b"Subject: \x1b[2J\xff\r\n\n" + bytes(range(256)) * 1000
    shown = control.run("show", "message", f"{EVPID:016x}", answers=[content(data)], text=False)
    assert shown.stdout == data
    assert control.asked == [OpenContent(1, 0x1A2B3C4D)]


def test_on_a_terminal_a_message_commands_nothing(control, content):
    ours, theirs = pty.openpty()
    data = "Subject: Grüße\x1b]0;title\x07\x9b2J\r\n".encode() + b"\xff\n"
    options = {"capture_output": False, "stdout": theirs, "text": False}
    control.run("show", "message", "1a2b3c4d", answers=[content(data)], **options)
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert shown == "Subject: Grüße\\033]0;title\\007\\2332J\\015\r\n\\xff\r\n"


def test_a_message_that_cannot_be_read(control):
    shown = control.run("show", "message", "1a2b3c4d", answers=[ContentNotOpened(1, "the disk says no")])
    assert (shown.returncode, shown.stderr) == (1, "smtpctl: the disk says no\n")


def test_a_message_that_is_not_there(control, content):
    shown = control.run("show", "message", "1a2b3c4d", answers=[content(b"")])
    assert (shown.returncode, shown.stderr) == (1, "smtpctl: no message 1a2b3c4d\n")


def test_show_status(control):
    shown = control.run("show", "status", answers=[Answer(True, "mda")])
    assert shown.stdout == "MDA paused\nMTA running\nSMTP running\n"
    shown = control.run("show", "status", "-j", answers=[Answer(True, "mda")])
    assert json.loads(shown.stdout) == {"mda": "paused", "mta": "running", "smtp": "running"}


def test_show_stats_is_sorted(control):
    counters = {"uptime": 93784, "smtp.session": 3, "control.session": 1}
    shown = control.run("show", "stats", answers=[StatisticsShown(1, counters)])
    assert shown.stdout == "control.session=1\nsmtp.session=3\nuptime=93784\nuptime.human=1d2h3m4s\n"


def test_show_quarantine(control):
    rows = [(EVPID, 1000, "bad | row")]
    shown = control.run("show", "quarantine", answers=[QuarantineListed(1, rows)])
    assert shown.stdout == "1a2b3c4d00000001|1000|bad \\174 row\n"


# -- ordering ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, question, answer, said",
    [
        ("schedule all", ScheduleEnvelopes(1, *ALL), EnvelopesScheduled(1, 3), "3 envelopes scheduled"),
        ("remove 1a2b3c4d00000001", RemoveEnvelopes(1, EVPID, EVPID), EnvelopesRemoved(1, 1), "1 envelope removed"),
        ("pause envelope all", SuspendEnvelopes(1, *ALL, True), EnvelopesSuspended(1, 9), "9 envelopes paused"),
        ("resume envelope all", SuspendEnvelopes(1, *ALL, False), EnvelopesSuspended(1, 2), "2 envelopes resumed"),
        ("pause mda", PauseDeliveries(1, Kind.MDA, True), DeliveriesPaused(1, True), "command succeeded"),
        ("resume mda", PauseDeliveries(1, Kind.MDA, False), DeliveriesPaused(1, True), "command succeeded"),
        ("pause mta", PauseDeliveries(1, Kind.MTA, True), DeliveriesPaused(1, True), "command succeeded"),
        ("pause smtp", PauseListeners(1, True), ListenersPaused(1, True), "command succeeded"),
        ("resume smtp", PauseListeners(1, False), ListenersPaused(1, True), "command succeeded"),
        ("log verbose", SetVerbose(True), Done(0), "command succeeded"),
        ("log brief", SetVerbose(False), Done(0), "command succeeded"),
        ("update table aliases", UpdateTable(1, "aliases"), TableUpdated(1, ""), "command succeeded"),
    ],
)
def test_a_command_asks_and_prints_the_result(control, words, question, answer, said):
    done = control.run(*words.split(), answers=[answer])
    assert (done.returncode, done.stdout, done.stderr) == (0, said + "\n", "")
    assert control.asked == [question]


@pytest.mark.parametrize(
    "words, question, answer, said",
    [
        ("schedule", ScheduleEnvelopes(1, *ALL, [7, 8]), EnvelopesScheduled(1, 3), "3 envelopes scheduled"),
        ("remove", RemoveEnvelopes(1, *ALL, [7, 8]), EnvelopesRemoved(1, 1), "1 envelope removed"),
    ],
)
def test_a_command_of_a_destination_asks_queue_for_its_numbers_first(control, words, question, answer, said):
    done = control.run(words, "destination", "far.test", answers=[DestinationsFound(1, [7, 8]), answer])
    assert (done.returncode, done.stdout, done.stderr) == (0, said + "\n", "")
    assert control.asked == [FindDestinations(1, "far.test"), question]


def test_a_destination_that_no_action_relays_to(control):
    done = control.run("schedule", "destination", "far.test", answers=[DestinationsFound(1, [])])
    assert (done.returncode, done.stderr) == (1, "smtpctl: no action relays to far.test\n")


@pytest.mark.parametrize(
    "words, question, failure",
    [
        ("pause destination far.test", ("", "far.test", True), "far.test is already paused"),
        ("resume destination far.test", ("", "far.test", False), "far.test is neither paused nor delayed"),
        ("pause mta from 192.0.2.1 for far.test", ("192.0.2.1", "far.test", True), "192.0.2.1 for far.test is already"),
        ("pause mta from 2001:DB8:0::1 for *", ("2001:db8::1", "", True), "2001:DB8:0::1 for * is already paused"),
        ("resume mta from * for far.test", ("", "far.test", False), "* for far.test is not paused"),
    ],
)
def test_destinations_and_source_addresses_are_paused_and_resumed(control, words, question, failure):
    done = control.run(*words.split(), answers=[RelayingPaused(1, True)])
    assert (done.returncode, done.stdout, done.stderr) == (0, "command succeeded\n", "")
    assert control.asked == [PauseRelaying(1, *question)]
    again = control.run(*words.split(), answers=[RelayingPaused(1, False)])
    assert again.returncode == 1 and again.stderr.startswith(f"smtpctl: command failed: {failure}")
    refused = control.run(*words.split(), answers=[RelayingPaused(1, False, "no such thing")])
    assert (refused.returncode, refused.stderr) == (1, "smtpctl: no such thing\n")


# -- relaying --------------------------------------------------------------------------------------


def relay(key, **more):
    return RelayEntry(
        **{
            **dict(key=key, action="out", domain="far.test", protocol="smtp", port=25, helo="here.test", pki=""),
            **dict(mx=True, require_tls=False, password=False, waiting=2, running=1, connections=1, connected=39),
            **dict(delayed=0, reason="", resolving=False, limited="", connectors=[ConnectorEntry("192.0.2.1", 1, 39)]),
            **more,
        }
    )


def test_relays_are_shown_page_by_page_of_every_dispatcher(control):
    delayed = relay(9, delayed=357, reason='mx1: "no"', connections=0, running=0, connectors=[], connected=NEVER)
    smarthost = relay(3, domain="", port=465, protocol="smtps", password=True, mx=False, resolving=True)
    pages = [[relay(2)], [delayed], [smarthost]]
    answers = [RelaysListed(1, rows, more, 2) for rows, more in zip(pages, (True, False, False), strict=True)]
    shown = control.run("show", "relays", answers=answers)
    connector = "  connector 192.0.2.1 refcount=1 nconn=1 lastconn=39s timeout=- flags=-"
    name = "[relay:far.test,port=25,smtp,mx,heloname=here.test,action=out]"
    assert shown.stdout.splitlines() == [
        f"{name} refcount=4 ntask=3 nconn=1 lastconn=39s timeout=- wait=-",
        connector,
        f'{name} refcount=2 ntask=2 nconn=0 lastconn=- timeout=5m57s wait=ONHOLD reason="mx1: \\042no\\042"',
        "[relay:out,port=465,smtps,auth=yes,heloname=here.test]"
        " refcount=4 ntask=3 nconn=1 lastconn=39s timeout=- wait=MX",
        connector,
    ]
    assert control.asked == [ListRelays(1), ListRelays(1, 0, 2), ListRelays(1, 1, 0)]
    (line,) = control.run("-j", "show", "relays", answers=[RelaysListed(1, [delayed], False, 1)]).stdout.splitlines()
    assert {"domain": "far.test", "connected": None, "delayed": 357}.items() <= json.loads(line).items()


def route(key, **more):
    return RouteEntry(
        **{
            **dict(key=key, source="192.0.2.1", address="192.0.2.9", port=25, host="mx1.far.test", destination=""),
            **dict(connections=2, failures=0, worked=True, resting=0, reason=""),
            **more,
        }
    )


def test_routes_have_numbers_that_are_those_of_one_dispatcher_each(control):
    resting = route(7, source="", host="", connections=0, failures=2, worked=False, resting=60, reason="refused")
    answers = [RoutesListed(1, rows, False, 2) for rows in ([route(3)], [resting])]
    assert control.run("show", "routes", answers=answers).stdout.splitlines() == [
        "6. 192.0.2.1 <-> 192.0.2.9 (mx1.far.test) ---- nconn=2 nerror=0 penalty=0 timeout=- port=25",
        '15. [] <-> 192.0.2.9 NDQK nconn=0 nerror=2 penalty=2 timeout=1m port=25 reason="refused"',
    ]
    control.asked.clear()
    done = control.run("resume", "route", "15", answers=[RoutesListed(1, [], False, 2), RouteResumed(1, True)])
    assert (done.returncode, done.stdout) == (0, "command succeeded\n")
    assert control.asked[1] == ResumeRoute(1, 1, 7)
    for number, answers in (("15", [RouteResumed(1, False)]), ("99999999999999999999", [])):
        failed = control.run("resume", "route", number, answers=[RoutesListed(1, [], False, 2), *answers])
        assert failed.stderr == f"smtpctl: command failed: route {number} is not disabled\n"


def test_a_host_that_several_dispatchers_know_is_one(control):
    rows = [
        [HostEntry("192.0.2.10", 25, "", 0, 0, 2, NEVER), HostEntry("192.0.2.9", 25, "mx1", 3, 1, 2, 60)],
        [HostEntry("192.0.2.9", 25, "mx2", 2, 2, 4, 5), HostEntry("192.0.2.9", 587, "mx2", 1, 1, 2, 7)],
    ]
    answers = [HostsListed(1, some, False, 2) for some in rows]
    assert control.run("show", "hosts", answers=answers).stdout.splitlines() == [
        "192.0.2.10 - refcount=0 nconn=0 lastconn=- concurrency=2 port=25",
        "192.0.2.9 mx2 refcount=5 nconn=3 lastconn=5s concurrency=6 port=25",
        "192.0.2.9 mx2 refcount=1 nconn=1 lastconn=7s concurrency=2 port=587",
    ]
    assert control.asked == [ListHosts(1), ListHosts(1, 1)]


def test_the_last_status_of_each_domain(control):
    rows = [[DomainEntry("a.test", 5, "250 ok")], [DomainEntry("a.test", 9, "no | 4")]]
    answers = [DomainsListed(1, some, False, 2) for some in rows]
    assert control.run("show", "hoststats", answers=answers).stdout == "a.test|9|no \\174 4\n"
    assert control.asked == [ListDomains(1), ListDomains(1, 1)]


def test_what_is_paused_is_shown(control):
    rows = [("", "far.test"), ("192.0.2.1", "")]
    shown = control.run("show", "mta", "paused", answers=[PausedListed(1, rows)])
    assert shown.stdout == "* -> far.test\n192.0.2.1 -> *\n"
    assert control.asked == [ListPaused(1)]


@pytest.mark.parametrize("rows, more", [([], True), ([3, 3], False), ([3, 2], False)], ids=["empty", "twice", "back"])
def test_a_dispatcher_that_lists_without_end_or_order_ends_the_listing(control, rows, more):
    shown = control.run("show", "routes", answers=[RoutesListed(1, [route(key) for key in rows], more, 1)] * 3)
    assert shown.returncode == 1 and shown.stderr.startswith("smtpctl: invalid answer from smtpd: ")
    assert control.asked == [ListRoutes(1)]


@pytest.mark.parametrize(
    "words, answer, reason",
    [
        ("pause mda", DeliveriesPaused(1, False), "mda is already paused"),
        ("resume mda", DeliveriesPaused(1, False), "mda is not paused"),
        ("pause mta", DeliveriesPaused(1, False), "mta is already paused"),
        ("resume mta", DeliveriesPaused(1, False), "mta is not paused"),
        ("pause smtp", ListenersPaused(1, False), "smtp is already paused"),
        ("resume smtp", ListenersPaused(1, False), "smtp is not paused"),
    ],
)
def test_a_command_without_effect_fails_and_says_why(control, words, answer, reason):
    done = control.run(*words.split(), answers=[answer])
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"smtpctl: command failed: {reason}\n")
    done = control.run("-j", *words.split(), answers=[answer])
    assert (done.returncode, json.loads(done.stdout)) == (1, {"succeeded": False, "reason": reason})


OF_A_RANGE = [
    ("schedule", EnvelopesScheduled, "scheduled", "paused, or being tried"),
    ("remove", EnvelopesRemoved, "removed", "already removed when the attempt under way ends"),
    ("pause envelope", EnvelopesSuspended, "paused", "already paused"),
    ("resume envelope", EnvelopesSuspended, "resumed", "not paused"),
]


@pytest.mark.parametrize("words, answer, done, reason", OF_A_RANGE)
@pytest.mark.parametrize("which", ["all", "1a2b3c4d", "1a2b3c4d00000001"])
def test_a_command_that_changes_nothing_says_why(control, words, answer, done, reason, which):
    listed = EnvelopesListed(1, [entry(0)], 0)
    ordered = control.run(*words.split(), which, answers=[answer(1, 0), listed])
    assert (ordered.returncode, ordered.stdout) == (0, f"0 envelopes {done}\n")
    assert ordered.stderr == f"smtpctl: {reason}\n"
    ordered = control.run("-j", *words.split(), which, answers=[answer(1, 0), listed])
    assert (ordered.returncode, json.loads(ordered.stdout)) == (0, {"count": 0, "reason": reason})


@pytest.mark.parametrize("words, answer, done, reason", OF_A_RANGE)
def test_a_command_for_an_empty_queue_succeeds(control, words, answer, done, reason):
    ordered = control.run(*words.split(), "all", answers=[answer(1, 0), EnvelopesListed(1, [], 0)])
    assert (ordered.returncode, ordered.stdout, ordered.stderr) == (0, f"0 envelopes {done}\n", "")


NOWHERE = ["1a2b3c4d", "00000000", "80000000", "ffffffff"]


@pytest.mark.parametrize(
    "words, answers",
    [
        *[(words, [answer(1, 0), EnvelopesListed(1, [], 0)]) for words, answer, *_ in OF_A_RANGE],
        ("show queue", [EnvelopesListed(1, [], 0)]),
        ("show envelope", [EnvelopesListed(1, [], 0)]),
        ("show message", []),
    ],
    ids=str,
)
@pytest.mark.parametrize("id", [*NOWHERE, *[f"{id}00000001" for id in NOWHERE]])
def test_an_unknown_id_is_an_error_whatever_its_value(control, content, words, answers, id):
    if words == ("show envelope" if len(id) == 8 else "show queue"):
        return  # the grammar does not have it
    done = control.run(*words.split(), id, answers=answers or [content(b"")])
    what = "message" if len(id) == 8 else "envelope"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"smtpctl: no {what} {id}\n")
    if not id.startswith("1a2b3c4d"):
        assert control.asked == []


def test_paused_deliveries_are_why_mail_waits(control):
    listed = EnvelopesListed(1, [entry(0)], 0, mda_paused=True)
    shown = control.run("show", "queue", answers=[listed])
    assert shown.stdout.endswith("|mda is paused\n")
    shown = control.run("-j", "show", "queue", answers=[listed])
    assert json.loads(shown.stdout)["reason"] == "mda is paused"
    shown = control.run("show", "envelope", f"{EVPID:016x}", answers=[listed])
    assert "\nreason: mda is paused\n" in shown.stdout


def test_a_table_that_stays_as_it_was_fails_with_the_reason(control):
    done = control.run("update", "table", "aliases", answers=[TableUpdated(1, "table aliases: line 2")])
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "smtpctl: table aliases: line 2\n")


# -- what goes wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize("words, answer", [("queue", EnvelopesListed), ("quarantine", QuarantineListed)])
def test_a_queue_that_cannot_be_read_is_not_shown_as_an_empty_one(control, words, answer):
    more = (0,) if answer is EnvelopesListed else ()
    shown = control.run("show", words, answers=[answer(1, [], *more, "the disk is gone")])
    assert (shown.returncode, shown.stdout, shown.stderr) == (1, "", "smtpctl: the disk is gone\n")


def test_users_other_than_root_are_refused(control):
    denied = control.run("show", "queue", answers=[Denied(1, "need root privileges")])
    assert (denied.returncode, denied.stderr) == (1, "smtpctl: need root privileges\n")


def test_a_daemon_that_does_not_run(tmp_path):
    command = [sys.executable, "-m", "smtpctl", "--state", str(tmp_path / "none"), "show", "queue"]
    shown = subprocess.run(command, capture_output=True, text=True, check=False, cwd=TOP)
    assert (shown.returncode, shown.stderr) == (1, "smtpctl: smtpd doesn't seem to be running\n")


def test_a_daemon_of_another_version(control):
    control.peer_id ^= 1
    shown = control.run("show", "queue")
    assert (shown.returncode, shown.stderr) == (1, "smtpctl: smtpd runs another version: restart it\n")


def test_a_daemon_that_hangs_up(control):
    shown = control.run("show", "queue")
    assert (shown.returncode, shown.stderr) == (1, "smtpctl: smtpd closed the connection\n")


def test_an_ambiguous_word_is_not_guessed(control):
    wrong = control.run("show", "st")
    assert wrong.returncode == 255
    assert wrong.stderr == "smtpctl: ambiguous word: st\npossibilities are:\n  show stats\n  show status\n"
    assert control.asked == []


def test_commands_that_are_not_available_say_so(control):
    wrong = control.run("spf", "walk")
    assert (wrong.returncode, wrong.stderr) == (1, "smtpctl: spf walk: not available yet\n")


def test_an_unknown_option(control):
    wrong = control.run("--stats")
    assert wrong.returncode == 255 and "unknown option --stats" in wrong.stderr


@pytest.mark.parametrize("words", [["-h"], ["pause", "-h"], ["show", "queue", "-h"]])
def test_help_names_the_exit_codes(control, words):
    shown = control.run(*words)
    assert shown.returncode == 0 and "255" in shown.stdout
    assert ("show queue" in shown.stdout) == (words != ["pause", "-h"])


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it gives up being that")
@pytest.mark.parametrize("words", [["show", "status"], ["show", "quarantine"]], ids=["a query", "an imsg"])
def test_root_is_given_up_before_the_first_answer(control, words):
    seen = []

    def see(sock):
        status = Path(f"/proc/{pid_of(sock)}/status").read_text()
        seen.append(next(line for line in status.splitlines() if line.startswith("Uid:")).split()[1:])

    def answer(channel, imsg):
        see(channel.sock)
        channel.send(QuarantineListed(1, []))
        channel.flush()

    def answer_query(sock, word):
        with sock:
            see(sock)
            query.answer(sock, Answer(True, ""))

    control._answer, control._answer_query = answer, answer_query
    assert control.run(*words).returncode == 0
    try:
        import pwd

        uid = str(pwd.getpwnam("_smtpx").pw_uid)
    except KeyError:
        uid = "0"
    assert seen == [[uid] * 4]


def pid_of(sock):
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int.from_bytes(credentials[:4], sys.byteorder)
