"""Passwords are compared in threads; each verdict comes back to the loop."""

from smtpd.imsg import CheckCredentials
from smtpd.lookup.login import COMPARE_QUEUE_MAX, COMPARE_THREADS
from tests.lookup.test_login import DOORS, SECRET, TABLES
from tests.stress import hasty_threads, rounds

LOGINS = 16  # of one user at a time


def test_hand_over_each_login_gets_its_verdict(house):
    """Right passwords: a wrong one takes its time on purpose."""
    assert LOGINS < COMPARE_THREADS + COMPARE_QUEUE_MAX
    made = house(tables=TABLES, listener_tables=DOORS, auth_failure_rate=100)
    with hasty_threads():
        for _ in rounds(5):
            made.heard.clear()
            for number in range(1, LOGINS + 1):
                asked = CheckCredentials(number, 1, f"10.{number}.0.1", "argon", SECRET)
                made.theirs["dispatcher1"].send(asked)
            for number in range(1, LOGINS + 1):
                answer = made.run(made.until(lambda number=number: made.answers("dispatcher1", number)))
                assert answer.verdict == "yes"
