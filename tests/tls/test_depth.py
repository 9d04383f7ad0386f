"""Clients' certificates under many authorities: each of these is a signature to be looked at, so there is a limit."""

import pytest

from smtpd.tls.connection import TlsFailed
from smtpd.tls.context import DEPTH_MAX
from tests.tls.world import Client, authority, certify, chain, client_context, key, listener, pem


def deep(levels):
    """A certificate with so many authorities between it and ours, all of them good: PEM, key."""
    by, made = authority(), []
    for number in range(levels):
        private = key("p256", f"level {number}")
        by = certify(private, f"level {number}", by=by, authority=True), private
        made.insert(0, by[0])
    leaf = certify(key("p256", "client"), "amy.there.test", by=by)
    return pem(leaf, *made), key("p256", "client")


def shake(signatory, levels, **tls):
    certificates = {"mx.here.test": chain("p256", "mx.here.test")}
    server = listener(signatory.signer, certificates, authorities=pem(authority()[0]), **tls)
    return Client(client_context(shows=deep(levels)), server).shake()


@pytest.mark.parametrize("levels", [0, 1, DEPTH_MAX])
def test_as_many_authorities_as_may_be_are_followed(signatory, levels):
    assert shake(signatory, levels, verify=True).link.facts.verified


@pytest.mark.parametrize("levels", [DEPTH_MAX + 1, 2 * DEPTH_MAX])
def test_more_authorities_than_may_be_are_refused(signatory, levels):
    with pytest.raises(TlsFailed, match="certificate of the client"):
        shake(signatory, levels, verify=True)
