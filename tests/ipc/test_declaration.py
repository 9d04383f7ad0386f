"""Arrows, the table they make, and its version."""

from typing import Annotated

import msgspec
import pytest

from smtpd.envelope import SECRET
from smtpd.imsg import TABLE
from smtpd.ipc.channel import Violation
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


def made(arrows="a -> b", name="X", field="request", kind=int, **more):
    table = Table()
    table.declare(arrows, **more)(type(name, (), {"__annotations__": {field: kind}}))
    return table


def test_the_version_changes_with_arrow_name_fields_descriptor_and_limit():
    others = [
        made("b -> a"),
        made(name="Y"),
        made(field="number"),
        made(kind=str),
        made(descriptor=True),
        made(limit=1),
    ]
    digests = {table.digest() for table in (made(), *others)}
    assert len(digests) == 1 + len(others)
    assert made().digest() == made().digest() < 2**32


def test_the_version_changes_with_the_order_of_the_imsgs():
    digests = set()
    for names in ("XY", "YX"):
        table = Table()
        for name in names:
            table.declare("a -> b")(type(name, (), {}))
        digests.add(table.digest())
    assert len(digests) == 2


def test_the_version_is_that_of_all_processes_whatever_the_order_of_a_set_is_in_each():
    senders = [f"p{number}" for number in range(100)]
    orders = {", ".join(names) + " -> b" for names in (senders, senders[::-1], senders[50:] + senders[:50])}
    assert len({made(arrows).digest() for arrows in orders}) == 1


def test_an_imsg_is_frozen_and_keeps_its_defaults():
    table = Table()

    @table.declare("a -> b")
    class Ask:
        request: int
        text: str = "none"

    assert Ask(1).text == "none"
    with pytest.raises(AttributeError):
        Ask(1).request = 2


def test_what_is_secret_is_not_printed():
    table = Table()

    @table.declare("a -> b")
    class Try:
        user: str
        password: Annotated[str, msgspec.Meta(max_length=9, extra=SECRET)]

    assert repr(Try("amy", "sesame")) == "Try(user='amy', password=...)"
    assert "sesame" not in f"{Try('amy', 'sesame')} {Violation(Try('amy', 'sesame'))!r}"


SECRET_FIELDS = [(d.cls, field) for d in TABLE.declarations for field in ("password", "proof") if hasattr(d.cls, field)]


@pytest.mark.parametrize("cls, field", SECRET_FIELDS, ids=lambda one: getattr(one, "__name__", one))
def test_no_password_and_no_proof_is_printed_with_its_imsg(cls, field):
    assert f"{field}=..." in repr(cls(*range(len(cls.__struct_fields__))))


def test_the_imsgs_that_carry_a_password_or_a_proof_are_known():
    names = {cls.__name__ for cls, _ in SECRET_FIELDS}
    assert names == {"CheckCredentials", "CheckPassword", "TryPassword", "FinishScram", "RelayCredentialsFound"}
