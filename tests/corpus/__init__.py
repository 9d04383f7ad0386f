"""Mails as they come: at least 400, made here, the same at each run.

all_mails()              every one, by family and name
expected(mail, way)      what the documented rules make of it on its way: the body, or the refusal
"""

from tests.corpus import edge, everyday, mime
from tests.corpus.expected import expected
from tests.corpus.mail import WAYS, Changed, Encoded, Mail, Refused, Same

__all__ = ["WAYS", "Changed", "Encoded", "Mail", "Refused", "Same", "all_mails", "expected"]


def all_mails() -> list[Mail]:
    return [mail for room in (edge, mime, everyday) for mail in room.mails()]
