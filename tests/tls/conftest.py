import pytest

from tests.tls.world import SigningService, chain, key, listener


@pytest.fixture(scope="session")
def signatory():
    made = SigningService(key("rsa2048"), key("p256"), key("p384"), key("rsa3001"))
    yield made
    made.close()
    assert made.troubles == []


@pytest.fixture(scope="session")
def server(signatory):
    """A listener with one certificate."""
    return listener(signatory.signer, {"mx.here.test": chain("p256", "mx.here.test")})
