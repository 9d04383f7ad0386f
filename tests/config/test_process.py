"""What the one-shot process passes on."""

from smtpd.config.process import LINE_MAX, LINES_MAX, brief


def test_a_log_has_room_for_some_lines_only():
    assert brief(["x" * (LINE_MAX + 1)]) == ["x" * LINE_MAX]
    assert brief(["x"] * (LINES_MAX + 3)) == ["x"] * LINES_MAX + ["and 3 more"]
    assert brief([]) == []
