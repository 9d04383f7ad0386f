"""Specifiers: what they stand for, and that no value is ever more than a value."""

import subprocess

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from smtpd.config.specifier import COMMAND_MAX, NAMES, VALUE_MAX, Template, TemplateError, parse, values_of, wrap

VALUES = values_of("Amy+x@There.test", "bob+list@here.test", "bob@here.test", "bob", "/home/bob")
HOSTILE = "$(touch x);`id`\n'\"\\ *~!#|&<>{}[]%{rcpt}${1}$HOME"


def expand(text, delimiter="+", **more):
    """The one parameter of a line."""
    _, (value,) = parse(text).command(VALUES | more, delimiter)
    return value


def printed(line, parameters):
    """What the line's one command is called with, and whether the shell found fault with it."""
    argv = ["/bin/sh", "-c", line, "sh", *parameters]
    done = subprocess.run(argv, capture_output=True, env={"x": "one two", "HOME": "/home/bob"}, cwd="/")
    return done.returncode, done.stdout


# -- what they stand for -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, value",
    [
        ("%{sender}", "Amy+x@There.test"),
        ("%{sender.user}", "Amy+x"),
        ("%{sender.domain}", "There.test"),
        ("%{rcpt}", "bob+list@here.test"),
        ("%{rcpt.user}", "bob+list"),
        ("%{dest.domain}", "here.test"),
        ("%{user.username}", "bob"),
        ("%{user.directory}", "/home/bob"),
        ("%{mbox.from}", "Amy+x@There.test"),
        ("%{SENDER.User}", "Amy+x"),
        ("%{rcpt[0]}", "b"),
        ("%{rcpt[0:2]}", "bob"),
        ("%{rcpt[-4:]}", "test"),
        ("%{rcpt[:-6]}", "bob+list@here"),
        ("%{rcpt[-1]}", "t"),
        ("%{rcpt[0:9999]}", "bob+list@here.test"),
        ("%{rcpt[-9999:2]}", "bob"),
        ("%{sender:lowercase}", "amy+x@there.test"),
        ("%{sender:uppercase}", "AMY+X@THERE.TEST"),
        ("%{sender:strip}", "Amy@There.test"),
        ("%{rcpt.user:strip|uppercase}", "BOB"),
        ("%{rcpt.user[0:1]:Uppercase}", "BO"),
    ],
)
def test_values(text, value):
    assert expand(text) == value


def test_the_null_sender_is_empty_and_in_an_mbox_the_mailer_daemon():
    null = values_of("", "bob@here.test", "bob@here.test", "bob", "/home/bob")
    assert parse("%{sender} %{sender.user} %{sender.domain} %{mbox.from}").command(null, "+") == (
        '"${1}" "${2}" "${3}" "${4}"',
        ["", "", "", "MAILER-DAEMON"],
    )


def test_an_address_without_a_domain_is_all_user():
    values = values_of("amy", "bob@here.test", "bob@here.test", "bob", "/home/bob")
    assert (values["sender.user"], values["sender.domain"]) == ("amy", "")


@pytest.mark.parametrize("text", ["~/bin/x ~/y", "~", "~bob/x"])
def test_a_home_in_a_command_is_that_of_the_user_it_runs_as(text):
    """No table says which program runs: its homes are values, and the shell knows its own."""
    assert parse(text).command(VALUES, "+") == (text, [])


def test_another_delimiter():
    assert expand("%{rcpt.user:strip}", "-", **{"rcpt.user": "bob-x+y"}) == "bob"


def test_percent_signs():
    assert parse("date +%Y 100%% %%{sender}").command({}, "+") == ("date +%Y 100% %{sender}", [])


@pytest.mark.parametrize("special", "!#$%&'*?`{|}~\"\\;<>() \t\n\x7f")
def test_characters_that_are_special_to_a_shell_become_a_colon(special):
    assert expand("%{sender}", sender=f"a{special}b") == "a:b"


def test_an_address_is_no_option():
    assert expand("%{sender}", sender="-oX/tmp/x@there.test") == ":oX/tmp/x@there.test"
    assert expand("%{sender[1:]}", sender="x-v") == ":v"


def test_raw_is_raw_but_for_control_characters():
    assert expand("%{sender:raw}", sender="-a 'b'\n") == "-a 'b':"


def test_a_home_is_not_changed():
    assert expand("%{user.directory}", **{"user.directory": "/home/bob's"}) == "/home/bob's"


@pytest.mark.parametrize(
    "text",
    [
        *("%{", "%{}", "%{sender", "%{nobody}", "%{sender.host}", "%{sender:rot13}", "%{sender:}", "%{sender:raw|}"),
        *("%{sender[]}", "%{sender[a]}", "%{sender[1}", "%{sender]1[}", "%{sender[1:2:3]}", "%{sender[99999]}"),
        *("%{ sender }", "%{sender\n}", "a\0b", "a\nb", "%{mda}", "%{%{sender}}"),
    ],
)
def test_what_is_no_specifier(text):
    with pytest.raises(TemplateError):
        parse(text)


@pytest.mark.parametrize("text", ["%{sender[16]}", "%{sender[-17]}", "%{sender[3:2]}", "%{sender[20:]}"])
def test_characters_that_a_value_does_not_have(text):
    with pytest.raises(TemplateError):
        expand(text)


# -- very long ones: they fail, they are never cut short -----------------------------------------


def test_a_very_long_specifier():
    for inside in ("x" * 128, "sender" + "|raw" * 100_000, "sender:" + "raw|" * 40 + "raw"):
        with pytest.raises(TemplateError):
            parse(f"%{{{inside}}}")


def test_very_many_specifiers():
    with pytest.raises(TemplateError):
        parse("%{sender}" * 1000).command(VALUES, "+")


def test_a_very_long_command():
    assert parse("x" * COMMAND_MAX).command({}, "+") == ("x" * COMMAND_MAX, [])
    with pytest.raises(TemplateError):
        parse("x" * (COMMAND_MAX + 1)).command({}, "+")


def test_a_very_long_value():
    assert expand("%{sender}", sender="x" * VALUE_MAX) == "x" * VALUE_MAX
    for text in ("%{sender}", "/%{sender}"):
        with pytest.raises(TemplateError):
            parse(text).path(VALUES | {"sender": "x" * (VALUE_MAX + 1)}, "+")


# -- lines of the shell --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, line",
    [
        ("deliver -f %{sender}", 'deliver -f "${1}"'),
        ("deliver -f'%{sender}'", "deliver -f''\"${1}\"''"),
        ('deliver "-f %{sender}"', 'deliver "-f ${1}"'),
        (r"a \\%{sender}", r'a \\"${1}"'),
        (r"a \"%{sender}", r'a \""${1}"'),
        ("a '\\'%{sender}", "a '\\'\"${1}\""),
        ("a ${EXTENSION}%{sender}", 'a ${EXTENSION}"${1}"'),
        ("a '$(' %{sender}", "a '$(' \"${1}\""),
        ('echo "a$\'b" %{sender}', 'echo "a$\'b" "${1}"'),
        ('echo "a<<b((c" %{sender}', 'echo "a<<b((c" "${1}"'),
        ("a#%{sender}", 'a#"${1}"'),
        ("a \\ #%{sender}", 'a \\ #"${1}"'),
        ("a # don't %{sender}", "a "),
    ],
)
def test_a_value_is_a_parameter_quoted_as_the_place_wants(text, line):
    assert parse(text).command(VALUES, "+")[0] == line


@pytest.mark.parametrize(
    "text",
    [
        *("a $(b %{sender})", "a `b %{sender}`", "a ${x:-%{sender}}", "a $((%{sender}))", "((%{sender}))"),
        *("f() { a %{sender}; }", "a <<x %{sender}", "$'a %{sender}'", "a $[%{sender}]", '"$(b)" %{sender}'),
        *("a $%{sender}", '"$%{sender}"', "a \\%{sender}", "a '", 'a "%{sender}', "a \\"),
        *(r"a \\\%{sender}", r"a \\\\\%{sender}", r'"\\\%{sender}"'),
    ],
)
def test_where_no_value_is_allowed(text):
    template = parse(text)
    with pytest.raises(TemplateError):
        template.check_command()
    with pytest.raises(TemplateError):
        template.command(VALUES, "+")


def test_a_line_without_values_may_be_anything():
    for line in ("a $(b 'c')", "a `b`", "f() { a; }; f", "a ${x:-'}"):
        assert parse(line).command({}, "+") == (line, [])


@pytest.mark.parametrize("text", ["%{sender:raw}", "'%{sender:raw}'", '"%{sender:raw}"', "eval %{sender}", "%{sender}"])
def test_a_hostile_value_runs_nothing(text):
    line, parameters = parse(f"printf '%s' {text}").command(VALUES | {"sender": HOSTILE}, "+")
    assert printed(line, parameters)[0] == 0
    assert parameters[0] in printed(line, parameters)[1].decode()


FRAGMENTS = [
    "a",
    " ",
    "'",
    '"',
    "\\",
    "#",
    "$x.",
    "${x}",
    "$ ",
    "$'",
    "{",
    "}",
    "=",
    "~",
    "\t",
    "%{sender:raw}",
    "%{rcpt:raw}",
]


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=12), st.text(st.characters(codec="utf-8")), st.text("'\"$`\\ ;\n"))
@settings(max_examples=200, deadline=None)
def test_a_value_never_changes_the_words_of_the_line(fragments, sender, recipient):
    """The shell splits the line with plain words in place of the values, and the values come where those were."""
    text = "printf '%s\\0' " + "".join(fragments)
    try:
        line, parameters = parse(text).command(VALUES | {"sender": sender, "rcpt": recipient}, "+")
    except TemplateError:
        assume(False)
    status, words = printed(text.replace("%{sender:raw}", "SENDER").replace("%{rcpt:raw}", "RCPT"), [])
    controls = {code: ":" for code in (*range(32), 127)}
    for word, value in ((b"SENDER", sender), (b"RCPT", recipient)):
        words = words.replace(word, value.translate(controls).encode())
    assert printed(line, parameters) == (status, words)


@given(st.text("%{}[]:|'\"\\$(`#-0 1ab.sender~/\x00\n"))
@settings(max_examples=200)
def test_any_text_is_a_template_or_malformed(text):
    for use in (lambda t: t.command(VALUES, "+"), lambda t: t.path(VALUES, "+"), Template.check_command):
        try:
            use(parse(text))
        except TemplateError:
            pass


@given(st.sampled_from(sorted(NAMES - {"user.directory"})), st.text())
def test_any_value_is_words_without_blanks(name, value):
    (parameter,) = parse(f"%{{{name}}}").command({name: value[:VALUE_MAX]}, "+")[1]
    assert not set(parameter) & set("!#$%&'*?`{|}~\"\\;<>() \t\r\n\0")
    assert not parameter.startswith("-")


# -- wrappers ------------------------------------------------------------------------------------


def test_a_wrapper_wraps():
    wrapper = parse("/usr/bin/nice -n %{user.username} %{mda} 2>&1 # quietly", wrapper=True)
    line, parameters = wrap(wrapper, parse("deliver '%{sender}' # don't")).command(VALUES, "+")
    assert line == "/usr/bin/nice -n \"${1}\" deliver ''\"${2}\"''  2>&1 "
    assert parameters == ["bob", "Amy+x@There.test"]


@pytest.mark.parametrize(
    "text",
    ['sh -c "%{mda}"', "sh -c '%{mda}'", "\\%{mda}", "$%{mda}", "$(%{mda})", "%{mda:raw}", "%{mda[0]}", "a '"],
)
def test_where_no_command_can_be_wrapped(text):
    with pytest.raises(TemplateError):
        parse(text, wrapper=True)


def test_a_wrapped_command_with_a_quote_of_its_own_is_none():
    with pytest.raises(TemplateError):
        wrap(parse("nice %{mda}", wrapper=True), parse("a 'b"))


# -- paths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, path",
    [
        ("~/Maildir", "/home/bob/Maildir"),
        ("/var/mail/%{user.username}/Maildir", "/var/mail/bob/Maildir"),
        ("%{user.directory}/mail", "/home/bob/mail"),
        ("/m/%{rcpt.user:strip|lowercase}", "/m/bob"),
        ("/m/%{rcpt.user[0]}/%{rcpt.user}", "/m/b/bob+list"),
        ("/a/100%%", "/a/100%"),
        ("/a/~/o'b", "/a/~/o'b"),
        ("/a/../b", "/a/../b"),
    ],
)
def test_paths(text, path):
    assert parse(text).path(VALUES, "+") == path


@pytest.mark.parametrize("text", ["Maildir", "", "~bob/Maildir", "%{sender}", "~"])
def test_a_path_is_absolute(text):
    with pytest.raises(TemplateError):
        parse(text).path(VALUES, "+")


@pytest.mark.parametrize("value", ["a/b", "../../etc", "/etc/passwd", "a/../.."])
def test_a_slash_in_an_address_makes_no_directory(value):
    path = parse("/m/%{rcpt.user}/Maildir").path(VALUES | {"rcpt.user": value}, "+")
    assert path == f"/m/{value.replace('/', ':')}/Maildir"


@pytest.mark.parametrize("value", ["", ".", ".."])
def test_a_value_that_would_change_the_path(value):
    for name in ("rcpt.user", "user.username"):
        with pytest.raises(TemplateError):
            parse(f"/m/%{{{name}}}/Maildir").path(VALUES | {name: value}, "+")


def test_two_values_that_together_would_change_the_path():
    with pytest.raises(TemplateError):
        parse("/m/%{sender}%{rcpt}").path({"sender": ".", "rcpt": "."}, "+")


def test_a_user_without_a_home_has_no_path_in_it():
    with pytest.raises(TemplateError):
        parse("%{user.directory}mail").path({"user.directory": ""}, "+")
    with pytest.raises(TemplateError):
        parse("~/mail").path({"user.directory": "home"}, "+")


def test_the_home_may_be_the_root():
    assert parse("~/Maildir").path({"user.directory": "/"}, "+") == "/Maildir"


def test_a_very_long_path():
    with pytest.raises(TemplateError):
        parse("/" + "x" * 1023).path({}, "+")


@pytest.mark.parametrize(
    "text, prefix",
    [
        ("~/Maildir", "/home/bob/Maildir"),
        ("~/m/%{user.username}", "/home/bob/m/bob"),
        ("~/m/%{rcpt.user}/x", "/home/bob/m"),
        ("/m/a%{rcpt.user}", "/m"),
        ("/%{rcpt.user}", "/"),
    ],
)
def test_the_prefix_is_what_is_known_before_any_mail(text, prefix):
    known = {"user.username": "bob", "user.directory": "/home/bob"}
    assert parse(text).prefix(known) == prefix
    below = parse(text).path(VALUES, "+")
    assert below == prefix or below.startswith(prefix.rstrip("/") + "/")


@given(st.text(), st.text(), st.text())
@settings(max_examples=200)
def test_any_value_stays_below_its_directory(sender, recipient, user):
    values = values_of(sender, recipient, recipient, user, "/home/bob")
    for text in ("~/m/%{sender}/x", "~/m/%{rcpt.user:raw}%{user.username}", "~/m/.%{sender.domain:lowercase}"):
        try:
            path = parse(text).path(values, "+")
        except TemplateError:
            continue
        assert path.startswith("/home/bob/m/") and ".." not in path.split("/")[3:]
        assert path.count("/") == text.count("/") + 2
