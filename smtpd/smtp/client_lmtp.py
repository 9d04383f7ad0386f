"""A client for LMTP alone: without TLS, AUTH and conversion, and so without what reads headers and computes keys.

It runs where mail is delivered: in agents, whose code is loaded by a process of root.
"""

from collections.abc import Mapping

from smtpd.smtp.client_action import ClientSettings, Starttls
from smtpd.smtp.client_input import ClientInput
from smtpd.smtp.client_state import ClientState


class LmtpClient(ClientInput):
    """`name`: of this host, for LHLO."""

    def __init__(self, name: str, now: float, timeouts: Mapping[ClientState, float]):
        super().__init__(ClientSettings(name, lmtp=True, starttls=Starttls.NEVER, timeouts=timeouts), now)
