"""Which envelopes an administrator means: the one language of all commands of smtpctl that take envelopes.

    from @spam.test error *greylist* older 2d      words and values: smtpctl/selection.py makes a Selection of them
    envelope.sender LIKE '%@spam.test' AND ...     and queue/store/selected_rows.py the condition of a row

Words of the same kind are alternatives, words of different kinds have to hold all of them.
"""

from typing import Annotated

import msgspec

from smtpd.envelope import PRINTABLE, EnvelopeId, Seconds, Word

VALUES_MAX = 20  # of one word
SELECTED_MAX = 1000  # envelopes of one imsg

# `*` stands for any text, `?` for one character; upper and lower case are the same, as in the domain of an address.
Pattern = Annotated[str, msgspec.Meta(max_length=512, pattern=PRINTABLE)]
Patterns = Annotated[list[Pattern], msgspec.Meta(max_length=VALUES_MAX)]
Names = Annotated[list[Word], msgspec.Meta(max_length=VALUES_MAX)]
SelectedEnvelopes = Annotated[list[EnvelopeId], msgspec.Meta(max_length=SELECTED_MAX)]


class Selection(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    senders: Patterns = []  # an empty one is the null sender
    recipients: Patterns = []  # as the client named it, or after aliases
    actions: Names = []
    errors: Patterns = []  # of the last attempt
    created_since: Seconds = 0
    created_until: Seconds = 2**40
    suspended: bool | None = None  # None: it does not matter
    held: bool | None = None
    tried: bool | None = None  # at least one attempt has failed
