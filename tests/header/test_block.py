"""Header blocks: what is well formed, what loops, what is endless; and that pieces make no difference."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.header.block import MAX_BLOCK, MAX_NAME, MAX_RECEIVED, Fault, HeaderCheck


def check(*pieces: bytes) -> tuple[Fault | None, bool]:
    header = HeaderCheck()
    for piece in pieces:
        header.feed(piece)
    return header.fault, header.ended


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
        b"A: b\n\n" + b"Received: x\n" * 200,
        b"Received: x\n" * MAX_RECEIVED + b"\n",
        b"x" * MAX_NAME + b": y\n\n",
        b"X-Not-Received: x\n" * 200 + b"\n",
        b"A: " + b"x" * 65000 + b"\n\n",
        b"A: \xff\xfe\n\n",
    ],
)
def test_a_good_one(content):
    assert check(content)[0] is None


@pytest.mark.parametrize(
    "content, fault",
    [
        (b" folded into our trace line\n\n", Fault.MALFORMED),
        (b"\tfolded into our trace line\nA: b\n\n", Fault.MALFORMED),
        (b" \n\n", Fault.MALFORMED),
        (b"no colon\n", Fault.MALFORMED),
        (b"A: b\nno colon\n\nbody\n", Fault.MALFORMED),
        (b": no name\n\n", Fault.MALFORMED),
        (b"x" * (MAX_NAME + 1) + b": y\n\n", Fault.MALFORMED),
        (b"Received: x\n" * (MAX_RECEIVED + 1) + b"\n", Fault.LOOP),
        (b"rEcEiVeD: x\n y\n" * (MAX_RECEIVED + 1) + b"\n", Fault.LOOP),
        (b"Received: x\n" * 200 + b"no colon\n\n", Fault.MALFORMED),
        ((b"A: " + b"x" * 1000 + b"\n") * (MAX_BLOCK // 1000), Fault.TOO_LARGE),
    ],
)
def test_a_bad_one(content, fault):
    assert check(content)[0] is fault
    assert check(*(content[n : n + 1000] for n in range(0, len(content), 1000)))[0] is fault


LINES = st.sampled_from([b"A: b\n", b" c\n", b"\td\n", b"no colon\n", b":\n", b"\n", b"Received: e\n", b"x\n" * 50])


@settings(max_examples=200)
@given(st.lists(LINES, max_size=12).map(b"".join), st.integers(1, 9))
def test_pieces_make_no_difference(content, step):
    whole = check(content)
    assert check(*(content[n : n + step] for n in range(0, len(content), step))) == whole


@pytest.mark.parametrize("size, fault", [(MAX_BLOCK, None), (MAX_BLOCK + 1, Fault.TOO_LARGE)])
def test_the_block_is_measured_to_the_byte(size, fault):
    fields = (b"A:" + b"x" * 1021 + b"\n") * 1000
    content = fields + b"B:" + b"x" * 10000 + b"\n"
    content += b"C:" + b"x" * (size - len(content) - 3) + b"\n" + b"\nbody\n"
    assert check(content)[0] is fault
    assert check(*(content[n : n + 4096] for n in range(0, len(content), 4096)))[0] is fault


def test_an_endless_line_is_not_held():
    header = HeaderCheck()
    for _ in range(100):
        header.feed(b"A" * 1000)
    assert len(header._held) <= MAX_NAME + 1
    header.feed(b": b\n")
    assert header.fault is Fault.MALFORMED
