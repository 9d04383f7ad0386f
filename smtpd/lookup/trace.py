"""The trace of an expansion, for `smtpd --explain`.

node        the next node of the queue; what follows is about it, until the next one
rule        a match line, and its first condition that did not hold
entry       its entry in a table
forward     the content of its user's .forward
named       it names another node, which is new or already known
recipient   it becomes an envelope, which is new or already known
"""

from smtpd.envelope import Recipient
from smtpd.lookup.node import ForwardAnswer, Node
from smtpd.slice import Condition, Match
from smtpd.tables.table import TableUnavailable


class Trace:
    """A trace that records nothing."""

    def node(self, node: Node) -> None: ...

    def rule(self, match: Match, failed: Condition | None, verdict: bool | TableUnavailable) -> None: ...

    def entry(self, table: str, key: str, value: str) -> None: ...

    def forward(self, user: str, forward: ForwardAnswer) -> None: ...

    def named(self, node: Node, new: bool) -> None: ...

    def recipient(self, recipient: Recipient, new: bool) -> None: ...


NO_TRACE = Trace()
