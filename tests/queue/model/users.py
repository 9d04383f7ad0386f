"""The users of the model, their .forward files, and what lookup makes of a recipient.

amy, bob   a Maildir, and a .forward that they edit: commands, each other, and the users below
eve        an mbox        lou   by LMTP        mia   the action's command        nil   /dev/null
far, fay   at one other host        ida   at another
"""

import hashlib

from smtpd.envelope import Duty, Kind, Notify, Recipient

ACTIONS = {"amy": "local", "bob": "local", "eve": "box", "lou": "far", "mia": "run", "nil": "local"}
ELSEWHERE = {"far": "far.test", "fay": "far.test", "ida": "ida.test"}
ACTIONS |= dict.fromkeys(ELSEWHERE, "out")
SENDERS_HOST = {"there": "there.test"}  # of the one who is told of failures
USERS = [*ACTIONS]
USUAL = Notify(0)  # a client has not said when its sender is to be told
EDITORS = ["amy", "bob"]
FORWARDS = [
    [],
    ["|X"],
    ["|Y"],
    ["|X"],
    ["|Y"],
    ["\\", "|X"],
    ["\\", "|Y"],
    ["|X", "|Y"],
    ["|X", "|Z"],
    ["|Z", "\\", "eve"],
    ["|Z", "lou"],
    ["other", "|X"],
    ["other"],
    ["|Z", "far", "ida"],
]


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest() if text else ""


DIGESTS = {text: digest(text) for text in ("|X", "|Y", "|Z")}


class Users:
    def __init__(self):
        self.forward_reader = {user: [] for user in EDITORS}

    def edit(self, user, choice):
        self.forward_reader[user] = FORWARDS[choice % len(FORWARDS)]

    def has(self, user, digest):
        """That command stands in the user's .forward."""
        return any(DIGESTS.get(entry) == digest for entry in self.forward_reader[user])

    def expand(self, named, user, through=(), notify=USUAL):
        """The recipients that `user` stands for when the client said `named`, each once."""
        entries = self.forward_reader.get(user)
        if not entries or user in through:
            return [self._recipient(named, user, notify=notify)]
        found = []
        for entry in entries:
            if entry == "\\":
                found.append(self._recipient(named, user, notify=notify))
            elif entry in DIGESTS:
                found.append(self._recipient(named, user, Duty.FORWARDED, DIGESTS[entry], notify))
            else:
                other = entry if entry != "other" else EDITORS[user == EDITORS[0]]
                found += self.expand(named, other, (*through, user), notify)
        return [*dict.fromkeys(found)]

    def _recipient(self, named, user, duty=Duty.DELIVER, digest="", notify=USUAL):
        if user == "nil":
            duty = Duty.DISCARD
        if host := (ELSEWHERE | SENDERS_HOST).get(user):
            return Recipient(named, f"{user}@{host}", "out", Kind.MTA, "", "", notify=notify)
        address = f"{user}@here.test"
        return Recipient(named, address, ACTIONS[user], Kind.MDA, user, "", duty=duty, digest=digest, notify=notify)
