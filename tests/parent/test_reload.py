"""Keys and certificates on their way to those who take them, at the start and at HUP; the test speaks for these."""

import os
import socket
import threading

import pytest

from smtpd.imsg import (
    TABLE,
    AuthoritiesTaken,
    CertificatesUsed,
    CertificateTaken,
    ContextsMade,
    DropCertificates,
    KeyTaken,
    MakeContexts,
    TakeAuthorities,
    TakeCertificate,
    TakeKey,
    UseCertificates,
    UseTakenKeys,
)
from smtpd.ipc.channel import Channel, Violation
from smtpd.ipc.channel_set import ChannelSet
from smtpd.ipc.selector_loop import SelectorLoop
from smtpd.parent import reload
from smtpd.parent.certificate_file import open_files
from smtpd.parent.certificate_update import CertificateUpdate
from smtpd.parent.child import Child
from smtpd.parent.notify import ServiceManager
from smtpd.parent.process import from_crypto, from_dispatcher
from smtpd.parent.reload import Reload
from smtpd.parent.start.await_child import CannotStart, ChildAnswers
from smtpd.parent.start.certificates import update_at_start
from smtpd.slice import CaSlice, ParentSlice, PkiSlice

ONE, OTHER = "1" * 64, "2" * 64
SEATS = [("crypto", 0), ("dispatcher", 1), ("dispatcher", 2)]
ROUND = [
    (SEATS[1], MakeContexts),
    (SEATS[2], MakeContexts),
    (SEATS[1], UseCertificates),
    (SEATS[2], UseCertificates),
    (SEATS[0], UseTakenKeys),
]
DROPPED = [(seat, DropCertificates) for seat in SEATS]
MISFIT = "pki a.test: {place}/a.test.key: not the key of the certificate in {place}/a.test.crt"


class World:
    """A parent, crypto and two dispatchers, which answer at once as `answers` says, by pki or ca and kind of imsg."""

    def __init__(self, place, names=("a.test", "b.test"), ca=()):
        self.place = place
        for name in names:
            self.write(name)
        pki = tuple(PkiSlice(name, str(place / f"{name}.crt"), str(place / f"{name}.key")) for name in names)
        cas = tuple(CaSlice(name, str(place / f"{name}.crt")) for name in ca)
        self.configuration = ParentSlice((), (), (), 2, None, pki=pki, ca=cas)
        self.ours, self.theirs = {}, {}
        for role, number in SEATS:
            ours, theirs = socket.socketpair()
            self.ours[role, number] = Channel(ours, TABLE, "parent", role, number)
            self.theirs[role, number] = Channel(theirs, TABLE, role, "parent", number)
        self.answers, self.read, self.told = {}, [], []
        self.refused = {}  # seat -> ContextsMade
        self.silent = set()  # kinds of imsgs that are not answered
        self.loop = SelectorLoop()
        self.channels = ChannelSet(self.loop)
        self.listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.listening.bind(str(place / "notify"))
        self.listening.setblocking(False)
        self.manager = ServiceManager(str(place / "notify"))
        crypto, *dispatchers = self.ours.values()
        self.reload = Reload(self.loop, self.manager, self.configuration, crypto, dispatchers, False)
        for channel in self.ours.values():
            self.channels.add(channel, self.dispatch, self.ended)
        self.error = None

    def write(self, name, text="1"):
        for ending in ("crt", "key"):
            path = self.place / f"{name}.{ending}"
            path.write_text(text)
            path.chmod(0o600)

    def dispatch(self, channel, imsg, descriptor):
        (from_crypto if channel.peer == "crypto" else from_dispatcher)(self, channel, imsg, descriptor)

    def ended(self, channel, error):
        self.error = error

    def answer(self):
        """Each of the others takes what it was sent."""
        for seat, channel in self.theirs.items():
            for imsg, descriptor in channel.receive():
                self.take(seat, channel, imsg, descriptor)

    def take(self, seat, channel, imsg, descriptor):
        match imsg:
            case MakeContexts():
                reply = self.refused.get(seat, ContextsMade("", ""))
            case UseCertificates():
                reply = CertificatesUsed()
            case UseTakenKeys() | DropCertificates():
                reply = None
            case _:
                reply = self.taken(seat, imsg, descriptor)
        if not isinstance(imsg, TakeKey | TakeCertificate | TakeAuthorities):
            self.told.append((seat, type(imsg)))
        if reply is not None and (seat, type(imsg)) not in self.silent:
            channel.send(reply)
            channel.flush()

    def taken(self, seat, imsg, descriptor):
        name = imsg.ca if isinstance(imsg, TakeAuthorities) else imsg.pki
        with open(descriptor) as file:
            self.read.append((seat[0], name, file.read()))
        public, trouble = self.answers.get((seat, name), (ONE, ""))
        kind = {TakeKey: KeyTaken, TakeCertificate: CertificateTaken, TakeAuthorities: AuthoritiesTaken}
        words = (name, trouble) if isinstance(imsg, TakeAuthorities) else (name, public, trouble)
        return kind[type(imsg)](*words)

    @property
    def used(self):
        """Which use what is new."""
        return [seat for seat, kind in self.told if kind in (UseCertificates, UseTakenKeys)]

    def hup(self):
        self.reload.begin()
        self.turn()

    def turn(self):
        """Until nothing more happens."""
        for _ in range(200):
            if self.reload._update is None:
                break
            self.loop.call_later(0.01, lambda: None)
            self.loop.turn()
            self.answer()
        assert self.reload._update is None
        self.channels._flush()
        self.answer()

    def said(self):
        words = []
        while True:
            try:
                words.append(self.listening.recv(1000).decode().split("=")[0].split("\n")[0])
            except BlockingIOError:
                return words

    def close(self):
        self.reload.close()
        for end in (*self.ours.values(), *self.theirs.values()):
            if not end.closed:
                end.close()
        self.listening.close()
        self.manager.close()


@pytest.fixture
def make_world(tmp_path):
    made = []

    def make(*args, **more):
        made.append(World(tmp_path, *args, **more))
        return made[-1]

    yield make
    for world in made:
        world.close()


def test_all_take_theirs_and_then_all_use_them(make_world, capfd):
    world = make_world(ca=("clients",))
    (world.place / "clients.crt").write_text("ca")
    world.hup()
    assert sorted(world.read) == [
        ("crypto", "a.test", "1"),
        ("crypto", "b.test", "1"),
        *[("dispatcher", "a.test", "1")] * 2,
        *[("dispatcher", "b.test", "1")] * 2,
        *[("dispatcher", "clients", "ca")] * 2,
    ]
    assert world.told == ROUND
    assert "certificates of 2 pki loaded" in capfd.readouterr().err
    assert world.said() == ["RELOADING", "READY"]


def test_each_round_reads_the_files_anew(make_world):
    world = make_world(("a.test",))
    world.hup()
    world.write("a.test", "2")
    world.hup()
    assert [text for _, _, text in world.read] == ["1"] * 3 + ["2"] * 3


@pytest.mark.parametrize(
    "answers, said",
    [
        (
            {(SEATS[0], "a.test"): (OTHER, "")},
            "pki a.test: {place}/a.test.key: not the key of the certificate in {place}/a.test.crt",
        ),
        (
            {(SEATS[2], "a.test"): (OTHER, "")},
            "pki a.test: {place}/a.test.key: not the key of the certificate in {place}/a.test.crt",
        ),
        ({(SEATS[0], "b.test"): ("", "no PEM in it")}, "pki b.test: {place}/b.test.key: no PEM in it"),
        ({(SEATS[1], "b.test"): ("", "no PEM in it")}, "pki b.test: {place}/b.test.crt: no PEM in it"),
    ],
)
def test_a_reload_that_fails_changes_nothing(make_world, capfd, answers, said):
    world = make_world()
    world.answers = answers
    world.hup()
    text = capfd.readouterr().err
    assert said.format(place=world.place) in text and "stay as they were" in text and world.told == DROPPED
    assert world.said() == ["RELOADING", "READY"]  # or systemd would wait for it


def test_every_trouble_is_said(make_world, capfd):
    world = make_world()
    (world.place / "a.test.key").chmod(0o644)
    os.unlink(world.place / "b.test.crt")
    world.hup()
    text = capfd.readouterr().err
    assert "pki a.test: " in text and "can be read by others" in text
    assert "pki b.test: " in text and "No such file" in text
    assert world.told == DROPPED and world.read == []


def test_files_that_no_thread_can_be_had_to_open(make_world, capfd, monkeypatch):
    """Foreseen, so no traceback; the next SIGHUP has a thread."""
    world = make_world(("a.test",))

    def none(_thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", none)
        world.hup()
    text = capfd.readouterr().err
    assert "warn: pki a.test: no thread can be made\n" in text and "Traceback" not in text and world.told == DROPPED
    world.told.clear()
    world.hup()
    assert world.told == ROUND


def test_what_the_dispatchers_warn_of_is_said_once(make_world, capfd):
    world = make_world(("a.test",))
    world.reload.begin()
    world.theirs["crypto", 0].send(KeyTaken("a.test", ONE, ""))
    for seat in SEATS[1:]:
        world.theirs[seat].send(CertificateTaken("a.test", ONE, "", "it expires in 3 days"))
    while not world.reload._update.asked:
        world.loop.turn()
    for seat, channel in world.theirs.items():
        world.silent.add((seat, TakeKey if seat == SEATS[0] else TakeCertificate))
        channel.flush()
    world.turn()
    warning = f"pki a.test: {world.place}/a.test.crt: it expires in 3 days"
    assert capfd.readouterr().err.count(warning) == 1


def test_a_HUP_that_comes_meanwhile_begins_another_round(make_world):
    world = make_world(("a.test",))
    world.reload.begin()
    world.reload.begin()
    world.turn()
    world.turn()
    assert world.told == ROUND * 2


@pytest.mark.parametrize("seat", SEATS[1:])
def test_a_context_that_one_dispatcher_cannot_make_changes_nothing_for_any_process(make_world, capfd, seat):
    world = make_world()
    world.refused[seat] = ContextsMade("b.test", "the certificate is signed with SHA1")
    world.hup()
    text = capfd.readouterr().err
    assert f"warn: pki b.test: {world.place}/b.test.crt: the certificate is signed with SHA1\n" in text
    assert "stay as they were" in text and "loaded" not in text
    assert world.told == [*ROUND[:2], *DROPPED]
    world.refused.clear()
    world.told.clear()
    world.hup()
    assert world.told == ROUND


def test_a_context_that_no_certificate_is_to_blame_for(make_world, capfd):
    world = make_world()
    world.refused[SEATS[1]] = ContextsMade("", "no cipher")
    world.hup()
    assert "warn: TLS: no cipher\n" in capfd.readouterr().err and world.used == []


def lose_patience(world, condition):
    """Turn until that holds."""
    world.loop.call_later(0.02, lambda: None)
    for _ in range(200):
        world.loop.turn()
        world.answer()
        if condition():
            return
        world.loop.call_later(0.01, lambda: None)
    raise AssertionError("it does not come to that")


LATE = [
    (SEATS[0], TakeKey, KeyTaken("a.test", ONE, ""), "crypto"),
    (SEATS[1], TakeCertificate, CertificateTaken("a.test", ONE, ""), "dispatcher 1"),
    (SEATS[2], MakeContexts, ContextsMade("", ""), "dispatcher 2"),
]


@pytest.mark.parametrize("seat, silent, answer, name", LATE)
def test_a_process_that_does_not_answer_in_time_is_named_and_changes_nothing(
    make_world, capfd, monkeypatch, seat, silent, answer, name
):
    monkeypatch.setattr(reload, "STEP_TIMEOUT", 0.3)
    world = make_world(("a.test",))
    world.silent = {(seat, silent)}
    world.reload.begin()
    lose_patience(world, lambda: world.told[-3:] == DROPPED)
    text = capfd.readouterr().err
    assert f"warn: {name} gives no answer, and is waited for\n" in text and "stay as they were" in text
    assert world.used == [] and world.said() == ["RELOADING", "READY"]
    # No other round before the answer has come, however often it is asked for.
    world.reload.begin()
    world.reload.begin()
    assert "waiting for the end of the last one" in capfd.readouterr().err
    world.told.clear()
    read = len(world.read)
    world.loop.call_later(0, lambda: None)
    world.loop.turn()
    world.answer()
    assert (world.told, len(world.read)) == ([], read)
    # Then it is made up for.
    world.silent.clear()
    world.theirs[seat].send(answer)
    world.theirs[seat].flush()
    monkeypatch.setattr(reload, "STEP_TIMEOUT", 10.0)
    world.turn()
    assert world.told == ROUND and world.error is None


def test_the_old_keys_are_kept_for_a_dispatcher_that_is_late_to_use_the_new_ones(make_world, capfd, monkeypatch):
    monkeypatch.setattr(reload, "STEP_TIMEOUT", 0.05)
    world = make_world(("a.test",))
    world.silent = {(SEATS[2], UseCertificates)}
    world.reload.begin()
    said = []
    lose_patience(world, lambda: said.append(capfd.readouterr().err) or "old certificates" in "".join(said))
    assert "warn: dispatcher 2 gives no answer: until then" in "".join(said)
    assert (SEATS[0], UseTakenKeys) not in world.told and world.said() == ["RELOADING", "READY"]
    world.theirs[SEATS[2]].send(CertificatesUsed())
    world.theirs[SEATS[2]].flush()
    world.turn()
    assert world.told == ROUND
    assert "certificates of 1 pki loaded" in capfd.readouterr().err


def test_files_that_are_opened_too_late_are_closed_again(make_world, capfd, monkeypatch):
    """A file system that hangs: nothing but the thread waits for it."""
    opened, go = [], threading.Event()

    def slow(*arguments):
        go.wait(10)
        opened.append(open_files(*arguments))
        return opened[-1]

    monkeypatch.setattr(reload, "STEP_TIMEOUT", 0.05)
    monkeypatch.setattr(reload, "open_files", slow)
    world = make_world(("a.test",))
    world.reload.begin()
    lose_patience(world, lambda: world.told == DROPPED)
    assert "the file system gives no answer" in capfd.readouterr().err and world.read == []
    world.told.clear()
    monkeypatch.setattr(reload, "STEP_TIMEOUT", 10.0)
    go.set()
    world.turn()
    assert world.told == ROUND and len(opened) == 2
    for descriptor in opened[0]:
        with pytest.raises(OSError):
            os.fstat(descriptor)


def test_a_round_that_ends_while_it_stops_does_not_say_that_mail_is_taken(make_world):
    world = make_world(("a.test",))
    world.reload.begin()
    while not world.reload._update.asked:
        world.loop.turn()
    world.reload.stop()
    world.turn()
    assert world.said() == ["RELOADING"]


def test_a_HUP_while_it_stops_does_nothing(make_world):
    world = make_world()
    world.reload.stop()
    world.hup()
    assert world.said() == []


def test_without_certificates_a_HUP_says_that_there_are_none(make_world, capfd):
    world = make_world(())
    world.hup()
    assert "no keys and certificates" in capfd.readouterr().err and world.told == []


@pytest.mark.parametrize(
    "seat, imsg",
    [
        (SEATS[0], KeyTaken("a.test", ONE, "")),
        (SEATS[1], CertificateTaken("a.test", ONE, "")),
        (SEATS[1], AuthoritiesTaken("clients", "")),
        (SEATS[1], ContextsMade("", "")),
        (SEATS[2], CertificatesUsed()),
    ],
)
def test_an_answer_without_a_question_is_a_violation(make_world, seat, imsg):
    world = make_world()
    with pytest.raises(Violation, match="without a request"):
        world.reload.take(world.ours[seat], imsg)


@pytest.mark.parametrize("imsg", [CertificateTaken("b.test", ONE, ""), AuthoritiesTaken("a.test", "")])
def test_an_answer_for_something_else_is_a_violation(make_world, imsg):
    world = make_world()
    crypto, *dispatchers = world.ours.values()
    update = CertificateUpdate(world.configuration, crypto, dispatchers)
    update.send_files([os.open("/dev/null", os.O_RDONLY) for _ in range(3)])
    with pytest.raises(Violation, match="without a request"):
        update.take(dispatchers[0], imsg)
    with pytest.raises(Violation, match="without a request"):
        update.take(crypto, KeyTaken("b.test", ONE, ""))
    for channel in world.theirs.values():
        world.channels._flush()
        for _, descriptor in channel.receive():
            os.close(descriptor)


# -- at the start: real processes, as there is no loop -------------------------------------------


def start(world):
    """Three processes that answer, and the parent that asks them."""
    pids = []
    for channel in world.theirs.values():
        pid = os.fork()
        if pid == 0:
            try:
                channel.sock.setblocking(True)
                world.theirs = {seat: one for seat, one in world.theirs.items() if one is channel}
                while True:
                    world.answer()
            finally:
                os._exit(0)
        pids.append(pid)
    children = [Child(role, number, 0, channel, status=0) for (role, number), channel in world.ours.items()]
    try:
        update_at_start(world.configuration, children, False, ChildAnswers(children, None))
    finally:
        for channel in world.theirs.values():
            channel.sock.shutdown(socket.SHUT_RDWR)
        for pid in pids:
            os.waitpid(pid, 0)


def test_at_the_start_all_are_taken(make_world, capfd):
    start(make_world())
    assert "certificates of 2 pki loaded" in capfd.readouterr().err


def test_at_the_start_a_misfit_is_the_end_of_it_and_all_are_said(make_world):
    world = make_world()
    world.answers = {(SEATS[0], "a.test"): (OTHER, "")}
    os.unlink(world.place / "b.test.key")
    with pytest.raises(CannotStart, match="pki a.test: .*a.test.key: not the key of.*\npki b.test: .*No such file"):
        start(world)


def test_at_the_start_a_context_that_cannot_be_made_is_the_end_of_it(make_world):
    world = make_world()
    world.refused[SEATS[2]] = ContextsMade("b.test", "signed with SHA1")
    with pytest.raises(CannotStart, match=r"^pki b.test: \S+/b.test.crt: signed with SHA1$"):
        start(world)
