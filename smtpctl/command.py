"""All commands: their words, what runs them, and their help.

A command is run by a function of the connection, its parameters, and whether JSON is wanted, which returns the exit
status.  What the grammar has and this daemon has not is named too, so that a script is told so and not "possibilities
are".
"""

TYPE_CHECKING = False  # as typing has it, which takes longer to load than all of smtpctl
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from smtpctl.connection import Connection

    Run = Callable[[Connection, Sequence[str], bool], int]

DONE, FAILED = 0, 1


class Command:
    """`run` is a module of smtpctl and its function, loaded when it is called for; empty: not available yet.

    `fails`: when the exit status is 1, beside the reasons that all commands have.  `preview`: with -n this is run
    instead, and shows the envelopes that the command is for."""

    __slots__ = ("fails", "help", "pattern", "preview", "run")

    def __init__(self, pattern: str, run: str, help: str, fails: str = "", preview: str = ""):
        self.pattern, self.run, self.help, self.fails, self.preview = pattern, run, help, fails, preview

    def load(self, preview: bool = False) -> "Run":
        module, _, function = (self.preview if preview else self.run).partition(".")
        loaded: Run = getattr(__import__(f"smtpctl.{module}", fromlist=[function]), function)
        return loaded


ALREADY_PAUSED, NOT_PAUSED = "it is already paused", "it is not paused"
NO_ENVELOPE, NO_MESSAGE = "there is no such envelope", "there is no such message"
NO_UPDATE = "there is no such table, or it cannot be read and stays as it was"
SHOW, SHOW_SELECTED = "show.show_queue", "show.show_selected"


def for_envelopes(word: str, run: str, help: str, all: str = "everything in the queue") -> "list[Command]":
    """A command with each operand that means envelopes; `help` has {} where they are named."""
    return [
        Command(f"{word} <evpid>", f"operation.{run}", help.format("an envelope"), NO_ENVELOPE, SHOW),
        Command(f"{word} <msgid>", f"operation.{run}", help.format("a message"), NO_MESSAGE, SHOW),
        Command(f"{word} all", f"operation.{run}", help.format(all), "", SHOW),
        Command(f"{word} <selection>", f"selected.{run}", help.format("selected envelopes"), "", SHOW_SELECTED),
    ]


COMMANDS = [
    Command("discover <evpid>", "", "load an envelope that lies in the spool"),
    Command("discover <msgid>", "", "load the envelopes of a message that lie in the spool"),
    Command("encrypt", "encrypt.show_hash", "hash a password from stdin for a table"),
    Command("encrypt <string>", "encrypt.show_hash", "the same; other users can see the password meanwhile"),
    Command("encrypt --scram", "encrypt.show_verifier", "SCRAM-SHA-256 verifier of a password from stdin"),
    Command(
        "encrypt --scram <string>", "encrypt.show_verifier", "the same; other users can see the password meanwhile"
    ),
    *for_envelopes("hold", "suspend", "hold back {}, as pause envelope does", "anything in the queue"),
    Command("log brief", "operation.log_brief", "log at the normal level"),
    Command("log verbose", "operation.log_verbose", "log debug messages too"),
    Command("monitor", "", "a line of numbers every second"),
    Command(
        "pause destination <domain>",
        "operation.pause_destination",
        "relay nothing to a domain, or by an action with `host`",
        ALREADY_PAUSED,
    ),
    *for_envelopes("pause envelope", "suspend", "hold back {} until resumed", "anything in the queue"),
    Command("pause mda", "operation.pause_deliveries", "start no local delivery", ALREADY_PAUSED),
    Command("pause mta", "operation.pause_relaying", "start no relaying", ALREADY_PAUSED),
    Command(
        "pause mta from <address> for <destination>",
        "operation.pause_source",
        "use an address of this host no more for a domain, or an action with `host`; *: for any",
        ALREADY_PAUSED,
    ),
    Command("pause smtp", "operation.pause_listeners", "accept no new connections", ALREADY_PAUSED),
    Command("profile <string>", "", "measure"),
    *for_envelopes("release", "release", "resume {}, and try it now, also what is held"),
    Command("remove destination <domain>", "operation.remove_destination", "remove what is to be relayed there"),
    *for_envelopes("remove", "remove", "remove {} without a notice to the sender"),
    Command("resume destination <domain>", "operation.resume_destination", "relay to it again", NOT_PAUSED),
    *for_envelopes("resume envelope", "resume", "make attempts for {} again", "everything"),
    Command("resume mda", "operation.resume_deliveries", "deliver locally again", NOT_PAUSED),
    Command("resume mta", "operation.resume_relaying", "relay again", NOT_PAUSED),
    Command("resume mta from <address> for <destination>", "operation.resume_source", "use it again", NOT_PAUSED),
    Command("resume route <route>", "operation.resume_route", "try a disabled route now", "it is not disabled"),
    Command("resume smtp", "operation.resume_listeners", "accept connections again", NOT_PAUSED),
    Command(
        "schedule destination <domain>",
        "operation.schedule_destination",
        "try what is to be relayed there now; what is held is released",
    ),
    *for_envelopes("schedule", "schedule", "try {} now; what is held is released"),
    Command("show envelope <evpid>", "show.show_envelope", "all fields of an envelope", NO_ENVELOPE),
    Command("show hosts", "show_relay.show_hosts", "hosts that were relayed to"),
    Command("show hoststats", "show_relay.show_domains", "what became of the last mail relayed to each domain"),
    Command("show message <evpid>", "show.show_message", "the content of an envelope's message", NO_MESSAGE),
    Command("show message <msgid>", "show.show_message", "the content of a message", NO_MESSAGE),
    Command("show mta paused", "show_relay.show_paused", "sources and destinations that nothing is relayed for"),
    Command("show quarantine", "show.show_quarantine", "envelopes that could not be read: id, since when, why"),
    Command("show queue", "show.show_queue", "a line for each envelope"),
    Command("show queue <msgid>", "show.show_queue", "a line for each envelope of a message", NO_MESSAGE),
    Command("show queue <selection>", "show.show_selected", "a line for each selected envelope"),
    Command("show relays", "show_relay.show_relays", "destinations of relayed mail"),
    Command("show routes", "show_relay.show_routes", "routes in use, and routes that have failed"),
    Command("show stats", "show.show_statistics", "all counters"),
    Command("show status", "status.show_status", "what is running and what is paused"),
    Command("spf walk", "", "the addresses in the SPF records of domains"),
    Command("trace <string>", "", "log a subject in detail"),
    Command("unprofile <string>", "", "stop measuring"),
    Command("untrace <string>", "", "log a subject as usual"),
    Command("update table <table>", "operation.update_table", "read a table again", NO_UPDATE),
]
