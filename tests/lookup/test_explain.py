"""Why a recipient becomes what it becomes, in words."""

import os
import pwd

import pytest
from msgspec.structs import replace

from smtpd.lookup import explain as module
from smtpd.lookup.explain import ExplainError, explain, parse
from smtpd.slice import Condition, Match, Operand
from smtpd.smtp.address import AddressError
from tests.config.machine import slices

CONFIGURATION = """
table office { "192.0.2.0/24" }
table aliases { staff = "bob, amy, list@here.test", list = "amy, |cmd, /dev/null", wild = "x@there.test, bob" }
table people { bob = "2001:2001:/srv/bob", amy = "2002:2002:/srv/amy" }
table answers ldap
action "in" maildir userbase <people> alias <aliases>
action "hosted" maildir userbase <people> user nobody
action "far" lmtp "192.0.2.7:24" userbase <people>
match from src <office> for any action "hosted"
match !from src <office> for domain { "a.test", "b.test" } action "hosted"
match from mail-from <answers> for domain "slow.test" action "in"
match from any for domain "here.test" action "in"
match from any for domain "lmtp.test" action "far"
"""


@pytest.fixture
def told(capsys, tmp_path):
    (tmp_path / "table-ldap").touch(0o755)
    lookup = slices(CONFIGURATION, libexec=(str(tmp_path),)).lookup

    def tell(*words, forward=("none", b"", "")):
        status = explain(lookup, words, lambda user: forward)
        captured = capsys.readouterr()
        return status, [line for line in captured.out.splitlines()], captured.err

    return tell


def test_the_rules_and_why_they_do_not_hold(told):
    status, lines, _ = told("from=198.51.100.1", "rcpt-to=bob@here.test")
    assert status == 0
    assert lines[:6] == [
        "from=198.51.100.1 mail-from=<> rcpt-to=<bob@here.test>",
        "bob@here.test",
        '  rule 1: match from src <office> for any action "hosted": no, from src <office> does not hold',
        '  rule 2: match !from src <office> for domain { "a.test", "b.test" } action "hosted": '
        'no, for domain { "a.test", "b.test" } does not hold',
        '  rule 3: match from mail-from <answers> for domain "slow.test" action "in": '
        'no, for domain "slow.test" does not hold',
        '  rule 4: match from any for domain "here.test" action "in": yes',
    ]
    assert lines[-1] == "accepted: 1 envelope"


def test_a_node_is_printed_below_the_node_that_names_it(told):
    _, lines, _ = told("from=198.51.100.1", "rcpt-to=staff@here.test")
    shown = [line for line in lines if "rule" not in line]
    assert shown[1:] == [
        "staff@here.test",
        "  user staff",
        "    <aliases> has staff: bob, amy, list@here.test",
        "    user bob",
        "      .forward: none, not read here for users of a userbase",
        '      = delivered to bob by action "in" (maildir)',
        "    user amy",
        "      .forward: none, not read here for users of a userbase",
        '      = delivered to amy by action "in" (maildir)',
        "    list@here.test",
        "      user list",
        "        <aliases> has list: amy, |cmd, /dev/null",
        "        user amy: not processed",
        "        = refused: 424 4.2.4 Recipient is forwarded to a command that may not be run: <staff@here.test> "
        "(list in table aliases: commands and files need a table in a text file, and alias-commands)",
        "refused: 424 4.2.4 Recipient is forwarded to a command that may not be run: <staff@here.test>",
    ]


def test_the_session_counts(capsys):
    lookup = slices('action "in" maildir\nmatch from any for any action "in"\n').lookup
    lookup = replace(
        lookup,
        matches=(
            Match("in", Condition("rdns"), Condition("any"), helo=Condition("helo", operand=Operand("localnames"))),
            Match("in", Condition("auth"), Condition("any"), tls=Condition("tls")),
        ),
    )

    def lines(*words):
        explain(lookup, ["rcpt-to=nobody@x.test", "from=192.0.2.1", *words], lambda user: ("none", b"", ""))
        return capsys.readouterr().out.splitlines()

    assert lines()[2].endswith("no, from rdns does not hold") and lines()[3].endswith("no, from auth does not hold")
    assert lines("auth=bob", "tls=no")[3].endswith("no, tls does not hold")
    shown = lines("auth=bob", "tls=yes")
    assert shown[0].endswith("rcpt-to=<nobody@x.test> auth=bob tls=yes") and shown[3].endswith("yes")
    shown = lines("rdns=Mail.there.test", "helo=localhost")
    assert shown[0].endswith("helo=localhost rdns=mail.there.test") and shown[2].endswith("yes")


def test_a_refusal_is_the_status(told):
    status, lines, _ = told("rcpt-to=nobody@here.test")
    assert (status, lines[-1]) == (1, "refused: 550 5.1.1 Invalid recipient: <nobody@here.test>")
    status, lines, _ = told("rcpt-to=bob@nowhere.test", "from=198.51.100.1")
    assert (status, lines[-1]) == (1, "refused: 550 5.7.1 Invalid recipient: <bob@nowhere.test>")


def test_the_home_of_a_hosted_user(told):
    _, lines, _ = told("from=192.0.2.9", "rcpt-to=<bob+x@else.test>")
    what = 'delivered to bob (sub-address x), at home in /srv/bob, by action "hosted" (maildir, as nobody)'
    assert f"    = {what}" in lines


def test_a_program_is_asked_by_the_running_daemon_only(told):
    status, lines, _ = told("from=198.51.100.1", "rcpt-to=bob@slow.test", "mail-from=a@b.test")
    assert status == 1
    assert any("cannot be asked: table answers: only the running daemon asks its program" in line for line in lines)


def test_control_characters_in_a_forward_are_shown(capsys, monkeypatch):
    monkeypatch.setattr(module, "find_user", lambda name: "user")
    lookup = slices('action "in" mbox\nmatch from any for local action "in"\n').lookup
    explain(lookup, ["rcpt-to=bob@localhost"], lambda user: ("refused", b"", "not\x1b[2Jyours"))
    assert "not\\033[2Jyours" in capsys.readouterr().out


def test_skipped_lines_of_a_forward_are_printed(capsys, monkeypatch):
    monkeypatch.setattr(module, "find_user", lambda name: "user")
    lookup = slices('action "in" mbox\nmatch from any for local action "in"\n').lookup
    assert explain(lookup, ["rcpt-to=bob@localhost"], lambda user: ("text", b"bob\nb o b\n", "")) == 0
    shown = capsys.readouterr().out
    assert ".forward: bob, skipped line 2: neither an address nor the name of a user\n" in shown


def test_a_user_of_the_system_and_what_the_forward_says(capsys):
    me = next(user for user in pwd.getpwall() if module.find_user(user.pw_name) == "daemon")
    lookup = slices('action "in" mbox\nmatch from any for local action "in"\n').lookup
    assert explain(lookup, [f"rcpt-to={me.pw_name}@localhost"], lambda user: ("none", b"", "")) == 1
    assert "user of the system: one who receives nothing" in capsys.readouterr().out


def test_the_forward_of_a_user_of_the_system(capsys, monkeypatch):
    monkeypatch.setattr(module, "find_user", lambda name: "user")
    lookup = slices('action "in" mbox\nmatch from any for local action "in"\n').lookup
    said = b'# mine\n"| cmd %{rcpt}", bob, /dev/null, /home/bob/all\n'
    assert explain(lookup, ["rcpt-to=bob+x@localhost"], lambda user: ("text", said, "")) == 0
    shown = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert shown[4:] == [
        "user of the system: yes",
        ".forward: |cmd %{rcpt}, bob, /dev/null, /home/bob/all",
        "= |cmd %{rcpt}, run as bob (sub-address x)",
        "user bob",
        "user of the system: yes",
        '= delivered to bob by action "in" (mbox)',
        "= discarded",
        "= /home/bob/all, written as bob (sub-address x)",
        "accepted: 4 envelopes",
    ]
    assert explain(lookup, ["rcpt-to=bob@localhost"], lambda user: ("refused", b"", "not yours")) == 1
    assert "not yours" in capsys.readouterr().out


def test_the_command_of_an_alias_and_the_members_of_a_list(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "find_user", lambda name: "user")
    (tmp_path / "aliases").write_text(f'staff: "|archive all, always", :include:{tmp_path}/list\nodd: "\n')
    (tmp_path / "list").write_text("amy\n# eve\nerror:450 not yet\n")
    text = f'alias-commands user lists\naction "in" mbox alias <t>\ntable t file:{tmp_path}/aliases\n'
    lookup = slices(text + 'match from any for local action "in"\n', real=(tmp_path / "aliases",)).lookup
    assert explain(lookup, ["rcpt-to=staff@localhost"], lambda user: ("none", b"", "")) == 1
    shown = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert "= |archive all, always, run as lists" in shown
    assert f"{tmp_path}/list: amy, error:450 not yet" in shown
    assert explain(lookup, ["rcpt-to=odd@localhost"], lambda user: ("none", b"", "")) == 1
    assert '<t> has odd: "' in capsys.readouterr().out


def test_an_lmtp_server_is_asked_by_the_daemon_only(told):
    status, lines, _ = told("mail-from=åmy@there.test", "rcpt-to=bob@lmtp.test")
    assert status == 0
    assert any("only the running daemon asks the server of action far" in line for line in lines), lines


def test_users_as_the_daemon_would_find_them():
    assert module.find_user("root") == "root"
    assert module.find_user("no-such-user") == "unknown"
    if os.geteuid() >= 1000:
        assert module.find_user(pwd.getpwuid(os.geteuid()).pw_name) == "user"


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["from=127.0.0.1"],
        ["rcpt-to"],
        ["rcpt-to=a@b.test", "rcpt-to=a@b.test"],
        ["rcpt-to=a@b.test", "to=x"],
        ["rcpt-to=a@b.test", "from=x"],
        ["rcpt-to="],
        ["rcpt-to=a b@c.test"],
        ["rcpt-to=a@b.test\n"],
        ["rcpt-to=a@b.test", "mail-from=@"],
        ["rcpt-to=a@b.test", "tls="],
        ["rcpt-to=a@b.test", "tls=TLSv1.3"],
    ],
)
def test_words_that_are_no_recipient(told, words):
    status, lines, error = told(*words)
    assert (status, lines) == (1, [])
    assert error.startswith("--explain: ")
    with pytest.raises((ExplainError, AddressError)):
        parse(words, "mx.here.test")
