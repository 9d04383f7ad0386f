"""Arrows, the table they make, and its version."""

import pytest

from smtpd.ipc.declaration import Table


def test_an_arrow_may_have_several_senders_and_stations():
    table = Table()

    @table.declare("a, b -> c -> d")
    class Forwarded:
        request: int

    assert table.routes() == {("a", "c"), ("b", "c"), ("c", "d")}


@pytest.mark.parametrize("arrows", ["", "a", "a ->", "-> b", "a - > b", "a -> b c"])
def test_a_word_that_is_no_arrow_is_refused(arrows):
    with pytest.raises(ValueError):
        Table().declare(arrows)(type("X", (), {}))


def made(arrows="a -> b", **more):
    table = Table()
    table.declare(arrows, **more)(type("X", (), {"__annotations__": {"request": int}}))
    return table


def test_the_version_changes_with_arrow_descriptor_and_limit():
    digests = {t.digest() for t in (made(), made("b -> a"), made(descriptor=True), made(limit=1))}
    assert len(digests) == 4
    assert made().digest() == made().digest()


def test_an_imsg_is_frozen_and_keeps_its_defaults():
    table = Table()

    @table.declare("a -> b")
    class Ask:
        request: int
        text: str = "none"

    assert Ask(1).text == "none"
    with pytest.raises(AttributeError):
        Ask(1).request = 2
