"""What the one-shot process passes on."""

from smtpd.config.process import brief
from smtpd.imsg import REPORT_LINE, REPORT_LINES


def test_a_log_has_room_for_some_lines_only():
    assert brief(["x" * (REPORT_LINE + 1)]) == ["x" * REPORT_LINE]
    assert brief(["x"] * (REPORT_LINES + 3)) == ["x"] * REPORT_LINES + ["and 3 more"]
    assert brief([]) == []
