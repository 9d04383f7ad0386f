"""What an entry of a list has to look like, by what it is compared with.  Other entries would never match, in silence.

    regular expressions     ^bob@        not (bob
    networks                192.0.2.1   192.0.2.0/24   2001:db8::/32   local        not 192.0.2.0/33, or a host's name

Anything may be a user, an address, a domain or a tag.
"""

from smtpd.config.error import printable, quoted
from smtpd.tables.matching import is_network
from smtpd.tables.regex import Pattern
from smtpd.tables.table import Service


def fault(service: Service, entry: str) -> str:
    """Empty if there is none."""
    if service is Service.REGEX:
        try:
            Pattern(entry)
        except ValueError as malformed:  # Malformed, and numbers that int() finds too long
            return f"{quoted(entry)} is not a regular expression: {printable(str(malformed))}"
    elif service is Service.NETADDR and not is_network(entry):
        return f"{quoted(entry)} is no network, expected such as 192.0.2.1, 192.0.2.0/24, 2001:db8::/32 or local"
    return ""
