"""What is hardly meant is told, and keeps nobody from starting."""

import pytest

from smtpd.tables.credential import make_verifier
from tests.config.machine import errors_of, sliced

NICE = 'mda wrapper nice "nice {}"\naction b mda "cat" wrapper nice'


@pytest.mark.parametrize(
    "path, said",
    [
        (
            "/var/vmail/%u",
            '"%u" is not a format specifier and is taken literally, expected one such as %{user.username}',
        ),
        ("~/%d/%u", '"%d" is not a format specifier and is taken literally, expected one such as %{dest.domain}'),
        (
            "/home/$USER/Maildir",
            '"$USER" is not a format specifier and is taken literally, expected one such as %{user.us',
        ),
        ("/home/${user}/Maildir", '"${user}" is not a format specifier'),
        ("/var/%{dest.domain}/%n", '"%n" is not a format specifier'),
    ],
)
def test_specifiers_of_other_programs_in_a_path(path, said):
    (warning,) = sliced(f'action b maildir "{path}"').warnings
    assert warning.startswith(f"f:1:18: {said}")


@pytest.mark.parametrize("path", ["/v/%{user.username}", "/100%/x", "/v/%%u", "/v/%abc", "~/a$", "~/Mail"])
def test_a_path_that_is_meant_as_it_stands(path):
    assert sliced(f'action b maildir "{path}"').warnings == ()


def test_a_wrapper_that_runs_nothing():
    assert sliced(NICE.format("-n 5")).warnings == (
        'f:1:13: wrapper "nice" has no %{mda}: the wrapped command is never run',
    )
    assert sliced(NICE.format("%{mda}")).warnings == ()


TLS = 'pki mx1 cert "/c" key "/k"\nlisten on lo tls pki mx1 auth <t>\ntable t {}'


@pytest.mark.parametrize(
    "table, where", [("{{ amy = '{}' }}", "f:3:11"), ("file:/t", "/t:1:1"), ("passwd:/t", "/t:1:1")]
)
def test_a_password_in_the_clear_is_a_warning_that_does_not_repeat_it(table, where):
    (warning,) = sliced(TLS.format(table.format("sesame")), _t="amy:sesame\n").warnings
    assert warning.startswith(f'{where}: invalid password of user "amy": ')
    assert "sesame" not in warning


def test_a_hash_in_a_table_of_a_listener_with_scram_is_a_warning():
    hashed, verifier = "$6$salt$" + "a" * 86, make_verifier(b"sesame")
    passwords = f"amy:{verifier}\nbob:{hashed}\neve:{hashed}\n"
    text = TLS.format("file:/t").replace("auth <t>", "auth <t> scram")
    reason = 'user "bob" has a hash, which "scram" cannot use; smtpctl encrypt --scram makes one that it can'
    assert sliced(text, _t=passwords).warnings == (f"/t:2:1: {reason}",)
    assert sliced(text, _t=f"amy:{verifier}\nbob:!\n").warnings == ()
    assert sliced(TLS.format("file:/t"), _t=passwords).warnings == ()


def test_a_locked_user_is_no_doubt():
    assert sliced(TLS.format("{ amy = '!', bob = '*' }")).warnings == ()


def test_a_list_of_passwords_is_an_error():
    assert errors_of(TLS.format("file:/t"), _t="amy\n") == ["/t:1:1: the file is a list, expected a mapping"]


@pytest.mark.parametrize("backend", ["file", "passwd"])
def test_passwords_with_a_line_that_is_none_are_an_error(backend):
    (error,) = errors_of(TLS.format(f"{backend}:/t"), _t="amy:!\n\nbob\n")
    assert error.startswith("/t:3:1: ")


@pytest.mark.parametrize("backend, path", [("file", "/t"), ("passwd", "/t"), ("db", "/t"), ("sqlite", "/db")])
def test_passwords_in_a_world_readable_file(backend, path):
    text = {"sqlite": "dbpath /db\nquery_credentials SELECT 1, 2"}.get(backend, "amy:!")
    warning = f'f:3:7: "{path}" holds passwords and can be read by everybody: chgrp _smtpl, chmod 640'
    assert sliced(TLS.format(f"{backend}:/t"), _t=text, public=("/t", path)).warnings == (warning,)
    assert sliced(TLS.format(f"{backend}:/t"), _t=text).warnings == ()


PKI = '\npki p cert "/c" key "/k"\nmatch reject'


@pytest.mark.parametrize(
    "port, tls, doubt",
    [
        ("smtps", "tls pki p", "port 465 is for implicit TLS, expected smtps"),
        ("465", "", "port 465 is for implicit TLS, expected smtps"),
        ("submission", "smtps pki p", "clients of port 587 begin without TLS, expected tls or tls-require"),
        ("25", "smtps pki p", "clients of port 25 begin without TLS, expected tls or tls-require"),
        ("465", "smtps pki p", None),
        ("587", "tls-require pki p", None),
        ("10465", "", None),
        ("10587", "smtps pki p", None),
    ],
)
def test_a_port_where_client_and_server_would_wait_for_each_other(port, tls, doubt):
    warnings = sliced(f"listen on 127.0.0.1 port {port} {tls}{PKI if tls else ''}").warnings
    assert warnings == ((f"f:1:11: {doubt}",) if doubt else ())


def test_smtps_brings_its_own_port():
    assert sliced(f"listen on 127.0.0.1 smtps pki p{PKI}").warnings == ()
