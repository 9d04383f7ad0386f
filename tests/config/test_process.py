"""What the one-shot process passes on."""

from smtpd.config.process import truncate_lines
from smtpd.imsg import REPORT_LINE, REPORT_LINES


def test_a_log_has_room_for_some_lines_only():
    assert truncate_lines(["x" * (REPORT_LINE + 1)]) == ["x" * REPORT_LINE]
    assert truncate_lines(["x"] * (REPORT_LINES + 3)) == ["x"] * REPORT_LINES + ["and 3 more"]
    assert truncate_lines([]) == []
