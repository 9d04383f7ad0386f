"""Words that mean a number, a path, a name."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.config.build import delivery_target, value
from smtpd.config.errors import ConfigValueError


@pytest.mark.parametrize(
    "text, number",
    [
        ("1", 1),
        ("0", 0),
        ("0.0G", 0),
        ("35M", 35 * 1024**2),
        ("35m", 35 * 1024**2),
        ("500K", 512000),
        ("1G", 1024**3),
        ("1.5K", 1536),
        (".5K", 512),
        ("1.999", 1),
        ("10B", 10),
        ("+2k", 2048),
    ],
)
def test_sizes_as_scan_scaled_reads_them(text, number):
    assert value.size(text) == number


@pytest.mark.parametrize("text", ["", ".", "K", "1KB", "1 K", "-1", "0.1", "8E", "9" * 20, "1e3", "1,5K", "0x10", "١"])
def test_malformed_sizes(text):
    with pytest.raises(ConfigValueError):
        value.size(text)


@pytest.mark.parametrize("text, seconds", [("1s", 1), ("90m", 5400), ("12h", 43200), ("4d", 345600), ("007d", 604800)])
def test_intervals(text, seconds):
    assert value.interval(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "4", "d", "4w", "4D", "0d", "-1d", "1d2h", "1.5d", " 4d", "99999d", "9" * 30 + "s"]
)
def test_what_is_no_interval(text):
    with pytest.raises(ConfigValueError):
        value.interval(text)


@pytest.mark.parametrize(
    "text, port", [("1", 1), ("25", 25), ("65535", 65535), ("smtp", 25), ("smtps", 465), ("submission", 587)]
)
def test_ports(text, port):
    assert value.port(text) == port


@pytest.mark.parametrize("text", ["", "0", "65536", "-25", "--25", "25 ", "²", "ftp", "SMTP", "9" * 5000])
def test_what_is_no_port(text):
    with pytest.raises(ConfigValueError):
        value.port(text)


READERS = [
    value.size,
    value.interval,
    value.port,
    value.backend,
    value.user,
    delivery_target.maildir_path,
    delivery_target.lmtp_destination,
    delivery_target.command,
    delivery_target.wrapper,
    value.tag,
    value.host_name,
    value.sub_addr_delim,
    value.absolute_path,
    value.name,
]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(READERS), st.text())
def test_any_text_has_a_value_or_is_wrong(read, text):
    try:
        read(text)
    except ConfigValueError as wrong:
        assert str(wrong).isprintable()


@pytest.mark.parametrize(
    "text",
    ["mx", "mx.example.org:24", "192.0.2.1", "192.0.2.1:1", "[::1]", "[2001:db8::1]:65535", "/run/lmtp", "/a b"],
)
def test_destinations_of_lmtp(text):
    assert delivery_target.lmtp_destination(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":24",
        "mx:",
        "mx:65536",
        "mx:-1",
        "mx:24:24",
        "mx\n",
        "m x",
        "[]",
        "[mx]",
        "[::1",
        "::1",
        "[::1]24",
        "-",
        "mx;ls:24",
    ],
)
def test_what_is_no_destination_of_lmtp(text):
    with pytest.raises(ConfigValueError):
        delivery_target.lmtp_destination(text)


@pytest.mark.parametrize(
    "name", ["root", "_smtpd", "_smtpm", "_smtpx", "", "-x", "a b", "a:b", "../a", "a\n", "%{user.username}"]
)
def test_nothing_runs_as_root_nor_as_one_of_ours(name):
    with pytest.raises(ConfigValueError):
        value.user(name)


@pytest.mark.parametrize("text", ["../evil", "/bin/sh", "a.b", "a b", "", "-x", "é"])
def test_a_kind_of_table_cannot_lead_out_of_the_directory_of_programs(text):
    with pytest.raises(ConfigValueError):
        value.backend(text)


def test_a_command_or_path_that_is_too_long_is_no_command_and_no_path():
    for read, text in (
        (delivery_target.command, "c" * 4097),
        (delivery_target.wrapper, "c" * 4097),
        (delivery_target.maildir_path, "/" * 1025),
    ):
        with pytest.raises(ConfigValueError):
            read(text)


@pytest.mark.parametrize("text", ["mx.müller.test", "mx.xn--mller-kva.test", "mx.MÜLLER.test."])
def test_host_names_are_written_as_dns_and_tls_have_them(text):
    assert value.host_name(text) == value.pki_name(text) == "mx.xn--mller-kva.test"
    assert value.pki_name(f"*.{text}") == "*.mx.xn--mller-kva.test"


def test_a_destination_is_resolved_as_dns_has_it():
    assert delivery_target.lmtp_destination("müller.test:24") == "xn--mller-kva.test:24"
