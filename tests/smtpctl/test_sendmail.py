"""sendmail as it is called, with a server that the test plays."""

import os
import subprocess
import sys

import pytest

from smtpd import VERSION
from smtpd.envelope import MESSAGE_ID_MAX, first_envelope, last_envelope
from smtpd.imsg import EnvelopesListed, EnvelopesScheduled, ListEnvelopes, ScheduleEnvelopes
from smtpd.ipc.query import Answer
from tests.smtpctl.conftest import TOP
from tests.smtpctl.server import Server

MAIL = b"Subject: x\n\nhello\n"
PLAIN = ["-f", "amy@here.test", "bob@here.test"]


@pytest.fixture
def home(tmp_path):
    """Where dead letters go."""
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def run(control, home):
    """`run(*words, mail=…)`: the finished process."""

    def run(*words, mail=MAIL, state=control.folder, **more):
        environment = {**os.environ, "HOME": str(home)}
        words = ["sendmail", "--state", str(state), *words]
        done = control.call(*words, input=mail, text=False, env=environment, **more)
        done.errors, done.shown = done.stderr.decode(), done.stdout.decode()
        return done

    return run


@pytest.fixture
def sendmail(run):
    """`sendmail(*words, mail=…, status=…, answers=…)`: the server that it has talked to, which has answered so."""
    servers = []

    def call(*words, mail=MAIL, status=0, answers=None):
        servers.append(Server(answers or {}))
        done = run(*words, mail=mail, answers=[servers[-1].opened])
        assert done.returncode == status, done.errors
        servers[-1].errors, servers[-1].shown = done.errors, done.shown
        servers[-1].end()
        return servers[-1]

    yield call
    for server in servers:
        server.end()


def test_a_mail_is_submitted(sendmail, control):
    server = sendmail(*PLAIN)
    assert server.said == [
        "EHLO localhost",
        "MAIL FROM:<amy@here.test> SIZE=18",
        "RCPT TO:<bob@here.test>",
        "DATA",
        "QUIT",
    ]
    assert server.content.startswith(b"From: ") and server.content.endswith(b"Subject: x\r\n\r\nhello\r\n")
    assert (server.errors, server.shown) == ("", "")
    assert control.asked == ["session"]


@pytest.mark.parametrize("words, status", [(["-Z"], 64), (["-bd"], 64), ([], 70), (["a b"], 64)])
def test_wrong_options_are_an_error_before_smtpd_is_asked(run, control, home, words, status):
    done = run(*words)
    assert done.returncode == status and done.errors.startswith("sendmail: ")
    assert not control.asked and not list(home.iterdir())


@pytest.mark.parametrize("words", [["-q30m"], ["-qRthere.test"], ["-v", "-qIabc"]])
def test_the_queue_is_not_run_at_intervals_and_not_in_parts(run, control, words):
    done = run(*words)
    assert (done.returncode, done.errors, control.asked) == (0, "", [])


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, who alone may do so")
def test_q_has_the_whole_queue_tried(run, control):
    done = run("-q", answers=[EnvelopesScheduled(1, 3)])
    assert (done.returncode, done.errors, done.shown) == (0, "", "")
    assert control.asked == [ScheduleEnvelopes(1, first_envelope(1), last_envelope(MESSAGE_ID_MAX))]
    assert run("-q").returncode == 69


@pytest.mark.parametrize("name", ["sendmail", "send-mail"])
@pytest.mark.parametrize(
    "words, said", [(["--help"], "usage: sendmail "), (["--version"], f"sendmail (smtpd) {VERSION}\n")]
)
def test_help_and_version(control, name, words, said):
    done = control.call(name, "-oi", *words)
    assert done.returncode == 0 and done.stdout.startswith(said) and not done.stderr and not control.asked


def test_no_recipients_in_the_header(run, home):
    assert run("-t").returncode == 70
    assert (home / "dead.letter").read_bytes() == MAIL


def test_aliases_are_in_the_file_that_the_configuration_names(run):
    done = run("-bi", "-OAliasFile=/etc/passwd")
    assert done.returncode == 64 and "newaliases(8)" in done.errors


def test_v_shows_the_dialogue(sendmail):
    shown = sendmail("-v", *PLAIN, answers={"MAIL": "250 \x1b[31mred"}).shown
    assert ">>> RCPT TO:<bob@here.test>\n<<< 250 ok\n" in shown
    assert "<<< 250 ?[31mred\n" in shown


# -- refusals -----------------------------------------------------------------------------------


def test_one_bad_recipient_keeps_the_mail_back_and_is_named(sendmail, home):
    refused = {"RCPT TO:<bad": "550 5.1.1 no such user"}
    server = sendmail("-fa", "good@x.test", "bad@x.test", "bad2@x.test", status=70, answers=refused)
    assert "sendmail: bad@x.test: 550 5.1.1 no such user\n" in server.errors
    assert "bad2@x.test" in server.errors and "sendmail: so it was not sent to any\n" in server.errors
    assert "DATA" not in server.said
    assert (home / "dead.letter").read_bytes() == MAIL


def test_what_is_refused_for_now_is_temporary(sendmail, home):
    server = sendmail(*PLAIN, status=75, answers={".": "451 4.3.0 later"})
    assert "sendmail: command failed: 451 4.3.0 later\n" in server.errors


@pytest.mark.parametrize(
    "answers, status, said",
    [
        ([Answer(False, "too many sessions")], 69, "sendmail: too many sessions\n"),
        ([Answer(True, "mda")], 75, "invalid answer"),
        ([], 75, "closed the connection"),
    ],
)
def test_without_a_session_the_mail_is_kept(run, home, answers, status, said):
    done = run(*PLAIN, answers=answers)
    assert done.returncode == status and said in done.errors
    assert (home / "dead.letter").read_bytes() == MAIL


def test_a_session_that_is_no_socket(run, control, home):
    reading, writing = os.pipe()
    os.close(writing)
    done = run(*PLAIN, answers=[Answer(True, "", reading)])
    assert done.returncode == 75 and "invalid answer" in done.errors


def test_without_standard_input():
    command = f"exec {sys.executable} -m smtpctl sendmail bob <&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=20, cwd=TOP)
    assert (done.returncode, done.stderr) == (74, "sendmail: there is no standard input\n")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_caller_that_closes_what_it_does_not_read_hears_no_failure(control, tmp_path, closed):
    server = Server({})
    control.answers[:] = [server.opened]
    command = f"exec {sys.executable} -m smtpctl sendmail --state {control.folder} bob {closed}"
    done = subprocess.run(["sh", "-c", command], input=MAIL, timeout=20, cwd=TOP)
    server.end()
    assert done.returncode == 0 and server.content


def test_without_standard_output_there_is_no_dialogue(control):
    command = f"exec {sys.executable} -m smtpctl sendmail --state {control.folder} -bs >&-"
    done = subprocess.run(["sh", "-c", command], input=b"", stderr=subprocess.PIPE, timeout=20, cwd=TOP)
    assert (done.returncode, done.stderr) == (74, b"sendmail: there is no standard output\n")


def test_without_a_daemon_it_says_so_and_keeps_the_mail(run, home, tmp_path):
    done = run(*PLAIN, state=tmp_path / "nowhere")
    assert done.returncode == 75 and "doesn't seem to be running" in done.errors
    assert (home / "dead.letter").read_bytes() == MAIL


def test_a_large_mail_that_is_refused_is_saved_whole(sendmail, home):
    body = b"".join(b"%099d\n" % number for number in range(15_000))
    server = sendmail(*PLAIN, mail=MAIL + body, status=70, answers={".": "554 no"})
    assert server.content.endswith(b"014999\r\n")
    assert (home / "dead.letter").read_bytes() == MAIL + body


def test_a_header_that_is_too_large_is_saved_whole(run, home, control):
    mail = MAIL[:11] + b"X-Y: " + b"z" * 3_000_000 + b"\n\nhello\n"
    done = run(*PLAIN, mail=mail)
    assert done.returncode == 65 and "the header is too large" in done.errors and not control.asked
    assert (home / "dead.letter").read_bytes() == mail


# -- other modes -----------------------------------------------------------------------------------


def test_bs_speaks_smtp(sendmail):
    server = sendmail("-bs", mail=b"EHLO x\r\nMAIL FROM:<a>\r\nQUIT\r\n")
    assert server.said == ["EHLO x", "MAIL FROM:<a>", "QUIT"]
    assert server.shown.startswith("220 mx.test\r\n") and server.shown.endswith("221 bye\r\n")


def test_bs_ends_with_its_input(sendmail):
    assert sendmail("-bs", mail=b"EHLO x\r\n").said == ["EHLO x"]


def test_bp_is_show_queue(run, control):
    done = run("-bp", answers=[EnvelopesListed(1, [], 0)])
    assert (done.returncode, done.shown, done.errors) == (0, "", "")
    assert [type(asked) for asked in control.asked] == [ListEnvelopes]


@pytest.mark.parametrize(
    "name, said", [("sendmail", "sendmail: -Z is"), ("send-mail", "sendmail: -Z is"), ("mailq", "smtpctl: unknown opt")]
)
def test_it_goes_by_its_name(tmp_path, name, said):
    program = tmp_path / name
    program.write_text("import sys\nfrom smtpctl.__main__ import main\nsys.exit(main())\n")
    environment = {**os.environ, "PYTHONPATH": str(TOP)}
    done = subprocess.run([sys.executable, program, "-Z"], capture_output=True, text=True, timeout=20, env=environment)
    assert done.stderr.startswith(said)
