"""What an expansion tells of itself while it goes on, to whoever wants to know: nobody, unless somebody asks why.

node        the next one out of the queue; all that follows is about it, until the next
rule        a match line, and the first of its conditions that did not hold
entry       what stands for it in a table
forward     what its user's .forward says
named       it names another node, which is new, or has been there
recipient   it comes to an envelope, which is new, or has been there
"""

from smtpd.envelope import Recipient
from smtpd.lookup.node import ForwardAnswer, Node
from smtpd.slice import Condition, Match
from smtpd.tables.table import TableUnavailable


class Trace:
    """The one that is told everything and keeps nothing."""

    def node(self, node: Node) -> None: ...

    def rule(self, match: Match, failed: Condition | None, verdict: bool | TableUnavailable) -> None: ...

    def entry(self, table: str, key: str, value: str) -> None: ...

    def forward(self, user: str, forward: ForwardAnswer) -> None: ...

    def named(self, node: Node, new: bool) -> None: ...

    def recipient(self, recipient: Recipient, new: bool) -> None: ...


NO_TRACE = Trace()
