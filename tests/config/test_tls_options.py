"""What a listener's words about TLS mean."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.config.build import tls_options
from smtpd.config.errors import ConfigValueError

ALL = tls_options.VERSIONS


@pytest.mark.parametrize(
    "text, versions",
    [
        ("secure", ALL[2:]),
        ("default", ALL[2:]),
        ("all", ALL),
        ("legacy", ALL),
        ("tlsv1", ALL),
        ("tlsv1.2", ALL[2:3]),
        ("TLSv1.3", ALL[3:]),
        ("tlsv1.3,tlsv1.2", ALL[2:]),
        ("tlsv1.1:tlsv1.2", ALL[1:3]),
        (" tlsv1.2 , tlsv1.3 ", ALL[2:]),
        ("!tlsv1.0", ALL[1:]),
        ("!tlsv1.0,!tlsv1.1", ALL[2:]),
        ("all,!tlsv1.3", ALL[:3]),
        ("secure,!tlsv1.2", ALL[3:]),
        ("! tlsv1.0", ALL[1:]),
    ],
)
def test_protocols_as_libtls_reads_them(text, versions):
    assert tls_options.versions(text) == versions
    assert tls_options.protocols(text) == text


@pytest.mark.parametrize(
    "text", ["", ",", "tlsv1.2,", "sslv3", "tlsv1.4", "!all", "secure,!secure", "tlsv1.0,tlsv1.3", "!tlsv1.2", "tls"]
)
def test_what_leaves_no_versions_in_a_row_is_wrong(text):
    with pytest.raises(ConfigValueError):
        tls_options.protocols(text)


@pytest.mark.parametrize(
    "text", ["secure", "HIGH:!aNULL", "ECDHE-RSA-AES128-GCM-SHA256", "COMPAT", "insecure", "legacy"]
)
def test_ciphers_that_there_are(text):
    assert tls_options.ciphers(text) == text


@pytest.mark.parametrize("text", ["", "EHCDE", "\0", "!ALL", "TLS_AES_128_GCM_SHA256", "aNULL", "NULL", "AES128-SHA"])
def test_ciphers_that_leave_none_up_to_tls_1_2_are_wrong(text):
    with pytest.raises(ConfigValueError):
        tls_options.ciphers(text)


def test_all_words_for_ciphers_mean_some():
    for text in filter(None, tls_options.CIPHERS.values()):
        assert tls_options.ciphers(text) == text


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([tls_options.protocols, tls_options.ciphers, tls_options.dhe]), st.text())
def test_any_text_is_itself_or_wrong(read, text):
    try:
        assert read(text) in (text, text.lower())
    except ConfigValueError as wrong:
        assert str(wrong).isprintable()
