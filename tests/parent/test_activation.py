"""Sockets that the service manager has bound: sd_listen_fds(3) from our side."""

import os
import socket
import subprocess
import sys

import pytest

from smtpd.parent.start.activation import InheritedSockets, count_sockets
from smtpd.slice import ListenerSlice


def environment(**changed):
    return {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b", "TZ": "UTC"} | changed


def test_inherited_sockets_are_counted_and_their_variables_removed():
    given = environment()
    assert count_sockets(given) == 2 and given == {"TZ": "UTC"}


@pytest.mark.parametrize(
    "changed",
    [
        {"LISTEN_PID": "1"},
        {"LISTEN_PID": ""},
        {"LISTEN_FDS": "-1"},
        {"LISTEN_FDS": "two"},
        {"LISTEN_FDS": "²"},
        {"LISTEN_FDS": "99999999999999999999"},
        {"LISTEN_FDS": ""},
    ],
)
def test_variables_for_another_process_or_without_a_number_count_nothing(changed):
    given = environment(**changed)
    assert count_sockets(given) == 0 and given == {"TZ": "UTC"}


PROGRAM = """
import os, sys
from smtpd.slice import ListenerSlice
from smtpd.parent.start.activation import InheritedSockets
inherited = InheritedSockets(int(sys.argv[1]))
for words in sys.argv[2:]:
    address, port = words.rsplit(":", 1)
    taken = inherited.maybe_take(ListenerSlice(0, address, int(port), "", ""))
    print(words, "taken" if taken else "not there", bool(taken) and taken.get_inheritable())
inherited.close()
"""


def run(sockets, *wanted, extra=0):
    """A process that has `sockets` from descriptor 3 on, and its listeners ask for those `wanted`."""
    numbers = [sock.fileno() for sock in sockets]
    shift = f"import os\nfor at, number in enumerate({numbers}): os.dup2(number, 203 + at)\n"
    shift += f"for at in range({len(numbers)}): os.dup2(203 + at, 3 + at)\n"
    command = [sys.executable, "-c", shift + PROGRAM, str(len(numbers) + extra), *wanted]
    done = subprocess.run(command, capture_output=True, text=True, pass_fds=numbers)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr


def port_of(sock):
    return sock.getsockname()[1]


def test_a_listener_takes_the_one_with_its_address_and_port_and_no_child_inherits_it():
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.2", 0)) as other:
        words = [f"127.0.0.2:{port_of(other)}", f"127.0.0.1:{port_of(one)}"]
        out, said = run([one, other], *words)
    assert out == [f"{word} taken False" for word in words] and said == ""


def test_one_that_takes_everything_is_not_for_a_listener_that_wants_one_address():
    with socket.create_server(("0.0.0.0", 0)) as wide:
        out, said = run([wide], f"127.0.0.1:{port_of(wide)}")
        assert "not there" in out[0] and "no listener has this address and port" in said
        assert "taken" in run([wide], f"0.0.0.0:{port_of(wide)}")[0][0]


def test_what_is_no_listening_socket_of_TCP_is_said_and_closed():
    with (
        socket.socket() as silent,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as unix,
    ):
        silent.bind(("127.0.0.1", 0))
        udp.bind(("127.0.0.2", 0))  # the kernel may choose the same port
        out, said = run([silent, udp, unix], f"127.0.0.1:{port_of(silent)}", f"127.0.0.2:{port_of(udp)}")
    assert all("not there" in line for line in out)
    assert "does not listen" in said and said.count("not of TCP") == 2


def test_what_is_no_socket_or_is_not_there_is_said():
    with open("/dev/null") as null, socket.create_server(("127.0.0.1", 0)) as one:
        out, said = run([null, one], f"127.0.0.1:{port_of(one)}", extra=1)
    assert "taken" in out[0]
    assert "descriptor 3 of the service manager is not used" in said
    assert "descriptor 5 of the service manager is not used" in said


def test_one_of_both_families_is_said_and_the_one_of_IPv6_is_taken():
    try:
        both = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        six = socket.create_server(("::", 0), family=socket.AF_INET6)
    except (OSError, ValueError):
        pytest.skip("no IPv6 here")
    with both, six:
        out, said = run([both, six], f":::{port_of(both)}", f":::{port_of(six)}")
    assert "not there" in out[0] and "BindIPv6Only=ipv6-only" in said and "taken" in out[1]


def test_an_address_of_an_interface_is_found_by_the_name_of_the_interface():
    index, interface = socket.if_nameindex()[0]
    freebind = 78  # IPV6_FREEBIND, linux/in6.h
    try:
        six = socket.socket(socket.AF_INET6)
        six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        six.setsockopt(socket.IPPROTO_IPV6, freebind, 1)
        six.bind(("fe80::77", 0, 0, index))
    except OSError:
        pytest.skip("no IPv6, or no address that is not there yet, can be bound here")
    with six:
        six.listen()
        out, said = run([six], f"fe80::77%{interface}:{port_of(six)}")
    assert "taken" in out[0] and said == ""


def test_none_is_none():
    inherited = InheritedSockets()
    assert inherited.maybe_take(ListenerSlice(0, "127.0.0.1", 25, "", "")) is None
    inherited.close()
