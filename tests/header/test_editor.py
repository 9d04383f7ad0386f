"""Header blocks: well formed, looping, endless; what is mended in them; and that pieces make no difference."""

import email
import email.policy
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.header.editor import FIELD_LINE_MAX, MAX_BLOCK, MAX_FIELDS, MAX_MENDED, MAX_VALUE, HeaderEditor, HeaderFault

SUBMITTED = {"date": 1795243823, "message_id": "1a2b3c4d@here.test"}
DATE = b"Date: Sat, 21 Nov 2026 06:50:23 +0000 (UTC)\n"
MESSAGE_ID = b"Message-ID: <1a2b3c4d@here.test>\n"


def edit(*pieces: bytes, **options) -> tuple[bytes, HeaderFault | None]:
    editor = HeaderEditor(domain="here.test", **options)
    edited = b"".join([*map(editor.feed, pieces), editor.end()])
    return b"" if editor.fault else edited, editor.fault


def cut(content: bytes, step: int) -> list[bytes]:
    return [content[n : n + step] for n in range(0, len(content), step)]


def mended(content: bytes, **options) -> bytes:
    edited, fault = edit(content, **options)
    assert fault is None
    assert edit(*cut(content, 1), **options) == (edited, None)
    return edited


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"\nno colon in the body\n x\n",
        b"A: b\n",
        b"A: b\n\n",
        b"A:b\n\nbody\n",
        b"A:\n\nbody\n",
        b"A: b\n more\n\tand more\nC: d\n\nbody\n",
        b"A: b\n \n\nbody\n",
        b"A : b\n\n",
        b"From amy Sat Nov 21 06:50:23 2026\nA: b\n\n",
        b"A: b\n\nBcc: eve\nTo: bob\n" + b"Received: x\n" * 200,
        b"Received: x\n" * 99 + b"\n",
        b"x" * 1023 + b": y\n\n",
        b"X-Not-Received: x\n" * 200 + b"\n",
        b"A: " + b"x" * 65000 + b"\n\n",
        b"A: \xff\xfe\n\n",
        b"To: bob@here.test\nCc: amy@there.test,\n\tcarol@there.test\nFrom: Amy <amy@there.test>\n\nbody\n",
        b"Resent-To: bob\nResent-Bcc: eve\nResent-From: amy\n\n",
        b"A: b\n\nbinary \r\n and \r and \0\n.\n",
    ],
)
def test_what_needs_no_mending_stays_as_it_is(content):
    assert edit(content) == (content, None)
    assert edit(*cut(content, 997)) == (content, None)


@pytest.mark.parametrize(
    "content, fault",
    [
        (b" folded into our trace line\n\n", HeaderFault.MALFORMED),
        (b"\tfolded into our trace line\nA: b\n\n", HeaderFault.MALFORMED),
        (b" \n\n", HeaderFault.MALFORMED),
        (b"no colon\n", HeaderFault.MALFORMED),
        (b"no colon", HeaderFault.MALFORMED),
        (b"A: b\nno colon\n\nbody\n", HeaderFault.MALFORMED),
        (b": no name\n\n", HeaderFault.MALFORMED),
        (b"A: b\rc\n\n", HeaderFault.MALFORMED),
        (b"x" * 1024 + b": y\n\n", HeaderFault.MALFORMED),
        (b"A:" + b"x" * (MAX_VALUE + 1) + b"\n", HeaderFault.MALFORMED),
        (b"A:" + b"x" * (FIELD_LINE_MAX + 1), HeaderFault.MALFORMED),
        (b"Received: x\n" * 100 + b"\n", HeaderFault.LOOP),
        (b"rEcEiVeD: x\n y\n" * 100 + b"\n", HeaderFault.LOOP),
        (b"Received: x\n" * 200 + b"no colon\n\n", HeaderFault.MALFORMED),
        ((b"A: " + b"x" * 1000 + b"\n") * (MAX_BLOCK // 1000), HeaderFault.TOO_LARGE),
    ],
)
def test_a_header_that_cannot_be_taken(content, fault):
    assert edit(content)[1] is fault
    assert edit(*cut(content, 997))[1] is fault


@pytest.mark.parametrize("name", [b"To", b"Cc", b"From"])
@pytest.mark.parametrize("size, fault", [(65535, None), (65536, HeaderFault.MALFORMED)])
def test_an_address_list_is_measured_unfolded(name, size, fault):
    lines, rest = divmod(size, 1000)
    content = name + b":" + (b" " + b"x" * 999 + b"\n") * lines + b" " + b"x" * (rest - 1) + b"\nA: b\n\n"
    assert edit(content)[1] is fault
    assert edit(*cut(content, 4096))[1] is fault


@pytest.mark.parametrize("size, fault", [(MAX_BLOCK, None), (MAX_BLOCK + 1, HeaderFault.TOO_LARGE)])
def test_the_block_is_measured_to_the_byte(size, fault):
    fields = (b"A:" + b"x" * 1021 + b"\n") * 1000
    content = fields + b"B:" + b"x" * 10000 + b"\n"
    content += b"C:" + b"x" * (size - len(content) - 3) + b"\n" + b"\nbody\n"
    assert edit(content)[1] is fault
    assert edit(*cut(content, 4096))[1] is fault


def test_what_is_held_has_a_bound():
    endless = [b"To: " + b"x" * 1000 + b"\n", b"A: b\nTo: b\n", b"A:", b"Bcc: x\n"]
    for start in endless:
        for more in (b" " + b"x" * 999 + b"\n", b"x" * 1000, b" \n"):
            editor = HeaderEditor(domain="here.test")
            editor.feed(start)
            for _ in range(2000):
                editor.feed(more)
            field = editor._field.value if editor._field else b""
            assert len(editor._held) + len(field) <= 2 * FIELD_LINE_MAX + len(more)


def test_blind_copies_are_left_out():
    assert mended(b"Bcc: eve@there.test\nA: b\n\nbody\n") == b"A: b\n\nbody\n"
    assert mended(b"A: b\nBCC : eve,\n\tmallory\nTo: c@d\nbcc:\n\nbody\n") == b"A: b\nTo: c@d\n\nbody\n"
    assert mended(b"A: b\nBcc: eve\n and more") == b"A: b\n"
    assert mended(b"X-Bcc: a\nBccc: b\n\n") == b"X-Bcc: a\nBccc: b\n\n"


def test_an_endless_blind_copy_is_left_out():
    assert edit(b"Bcc: a\n", *[b" " + b"x" * 1000 + b"\n"] * 500, b"A: b\n\n") == (b"A: b\n\n", None)


def test_addresses_get_our_domain():
    content = b"To: bob,\n amy@there.test\ncc : Carol <carol>\nFROM:dan\nReply-To: x\nTo: eve\n\nTo: bob\n"
    assert mended(content) == (
        b"To: bob@here.test,\n amy@there.test\ncc : Carol <carol@here.test>\nFROM:dan@here.test\nReply-To: x\n"
        b"To: eve@here.test\n\nTo: bob\n"
    )


def test_completion_has_a_bound():
    lists = (b"To:" + b"a," * 2000 + b"\n") * 100
    edited = mended(lists + b"\n")
    assert edited.count(b"@here.test") <= MAX_MENDED // 2
    assert len(edited) < len(lists) + MAX_MENDED * 8


def test_date_and_message_id_are_added_if_missing():
    assert mended(b"A: b\n\nbody\n", **SUBMITTED) == b"A: b\n" + DATE + MESSAGE_ID + b"\nbody\n"
    assert mended(b"DATE : x\n\nbody\n", **SUBMITTED) == b"DATE : x\n" + MESSAGE_ID + b"\nbody\n"
    assert mended(b"message-id: x\nTo: bob\n", **SUBMITTED) == b"message-id: x\nTo: bob@here.test\n" + DATE
    assert mended(b"Resent-Date: x\n\n", **SUBMITTED) == b"Resent-Date: x\n" + DATE + MESSAGE_ID + b"\n"
    assert mended(b"\nDate: of the body\n", **SUBMITTED) == DATE + MESSAGE_ID + b"\nDate: of the body\n"
    assert mended(b"", **SUBMITTED) == DATE + MESSAGE_ID
    assert mended(b"A: b", **SUBMITTED) == b"A: b\n" + DATE + MESSAGE_ID


def test_a_user_writes_under_one_address_only():
    def seen(header):
        return mended(header + b"\n\nbody\n", masquerade="amy@here.test").removesuffix(b"\n\nbody\n")

    assert seen(b'From: "Amy (CEO), X" <ceo@bank.test>') == b'From: "Amy (CEO), X" <amy@here.test>'
    assert seen(b"From: ceo@bank.test") == b"From: amy@here.test"
    assert seen(b"From: A <a@b.test>,\n ceo@bank.test\nTo: c@d") == b"From: A <amy@here.test>\nTo: c@d"
    assert seen(b"From: amy\nfrom : ceo@bank.test\n fold\nTo: c@d\nFROM: x") == b"From: amy@here.test\nTo: c@d"
    assert seen(b"From: A " + b"x" * MAX_MENDED + b" <a@b>") == b"From: amy@here.test"


FIELDS = st.sampled_from(
    [
        b"A: b\n",
        b" c\n",
        b"\td\n",
        b"no colon\n",
        b":\n",
        b"\n",
        b"Received: e\n",
        b"x\n" * 50,
        b"To: bob\n",
        b"Cc: a@b, \n",
        b"bcc: f\n",
        b"From: g <h>\n",
        b"Date: i\n",
        b"To:",
        b" j, k@l",
        b"\r",
    ]
)
OPTIONS = st.sampled_from([{}, SUBMITTED, {"masquerade": "amy@here.test"}, SUBMITTED | {"masquerade": "a@b"}])


@settings(max_examples=200)
@given(st.lists(FIELDS, max_size=12).map(b"".join), st.integers(1, 9), OPTIONS)
def test_pieces_make_no_difference(content, step, options):
    assert edit(*cut(content, step), **options) == edit(content, **options)


@settings(max_examples=200)
@given(st.binary(max_size=200), OPTIONS)
def test_garbage(content, options):
    content = content.replace(b"\r", b"")
    edited, fault = edit(content, **options)
    assert edit(*cut(content, 1), **options) == (edited, fault)
    header = edited.partition(b"\n\n")[0]
    assert b"\r" not in header and not header.startswith((b" ", b"\t"))
    assert all(
        re.match(rb"[\t ]|[^:]+:", line) for line in header.split(b"\n") if not edited.startswith(b"\n") and line
    )


NAMES = st.sampled_from(["To", "Cc", "Bcc", "From", "Subject", "Date", "X-A", "Reply-To", "Message-ID", "Sender"])
VALUES = st.sampled_from(
    ["bob", "b@c.test", "A B <x>", "x, y", "a:;", '"q, r" <s>', "h\n folded, z", "=?utf-8?q?x?= <v>"]
)


@settings(max_examples=200)
@given(st.lists(st.tuples(NAMES, VALUES), max_size=8), st.booleans())
def test_another_parser_finds_the_other_fields_as_they_were(fields, submitted):
    content = "".join(f"{name}: {value}\n" for name, value in fields).encode() + b"\nbody\n"
    before = email.message_from_bytes(content, policy=email.policy.compat32)
    after = email.message_from_bytes(mended(content, **(SUBMITTED if submitted else {})), policy=email.policy.compat32)
    added = [name for name in ("Date", "Message-ID") if submitted and name not in before]
    assert after.keys() == [name for name, _ in before.items() if name != "Bcc"] + added
    assert after.get_payload() == "body\n"
    ours = {"To", "Cc", "From", "Bcc", *added}
    assert [item for item in after.items() if item[0] not in ours] == [i for i in before.items() if i[0] not in ours]


@pytest.mark.parametrize("name", ["To", "cc", "From", "BCC"])
def test_a_thousand_fields_of_addresses_are_enough(name):
    """A megabyte of them took a second, for all connections."""
    field = f"{name}: a@there.test\n".encode()
    for step in (10**9, 100):
        assert edit(*cut(field * MAX_FIELDS, step))[1] is None
        assert edit(*cut(field * (MAX_FIELDS + 1), step))[1] is HeaderFault.TOO_LARGE
