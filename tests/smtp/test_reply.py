"""A reply stays one reply, whatever its text is made of; and so does a line of the log."""

from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.smtp.action import Log
from smtpd.smtp.reply import REPLY_LINE_MAX, Reply


def test_one_line():
    assert Reply(250, "2.0.0", "Ok").data == b"250 2.0.0 Ok\r\n"


def test_the_enhanced_code_stands_on_every_line():
    assert Reply(214, "2.0.0", "a", "b").data == b"214-2.0.0 a\r\n214 2.0.0 b\r\n"


def test_no_enhanced_code_where_the_rfc_wants_none():
    assert Reply(220, "", "mx ESMTP").data == b"220 mx ESMTP\r\n"


@settings(max_examples=200)
@given(st.lists(st.text(max_size=600), min_size=1, max_size=3))
def test_text_cannot_end_a_reply_or_overflow_it(texts):
    lines = Reply(550, "5.1.1", *texts).data.split(b"\r\n")
    assert len(lines) == len(texts) + 1 and lines[-1] == b""
    for line, separator in zip(lines, [b"-"] * (len(texts) - 1) + [b" "], strict=False):
        assert line[:4] == b"550" + separator
        assert len(line) + 2 <= REPLY_LINE_MAX
        assert all(32 <= c < 127 for c in line)


def test_a_log_line():
    assert str(Log("disconnected", {"reason": "quit"})) == "disconnected reason=quit"
    assert str(Log("x", {"from": "<a@b>", "size": 5, "none": ""})) == 'x from=<a@b> size=5 none=""'
    assert str(Log("x", {"result": '550 "no"\n\\'})) == r'x result="550 \"no\"\n\\"'
    assert str(Log("x", {"to": "<böb@here.test>"})) == 'x to="<böb@here.test>"'


@settings(max_examples=200)
@given(st.text())
def test_a_value_cannot_end_a_log_line_or_begin_another_field(text):
    line = str(Log("x", {"value": text}))
    assert line.isprintable()
    value = line.removeprefix("x value=")
    if value.startswith('"'):
        inner = value[1:-1].replace("\\\\", "").replace('\\"', "")
        assert value.endswith('"') and '"' not in inner
    else:
        assert " " not in value and value == text
