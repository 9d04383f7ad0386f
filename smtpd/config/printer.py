"""The model -> smtpd.conf in its canonical form, which parses to the same model.

Settings with their default value are left out; defaults of a rule are written.  Macros, includes and comments are not
kept.
"""

import re
from collections.abc import Iterable, Iterator

from smtpd.config.build.delivery_target import MAILDIR
from smtpd.config.build.relay import TABLES as RELAY_TABLES
from smtpd.config.build.value import BYTES_PER_UNIT, SECONDS_PER_UNIT
from smtpd.config.model import Action, Config, Listen, ListenSocket, Pki, Relay, Srs, Table
from smtpd.config.parse.syntax import RESERVED
from smtpd.slice import Condition, DeliveryLimits, Limits, Match, Method, RelayLimits, RelayTls

PLAIN = re.compile(r"(?![0-9]+(?:/|\Z))[A-Za-z0-9:_][A-Za-z0-9:_./%-]*")
WIDTH = 120  # characters; a longer list gets a line for each entry


def print_config(config: Config) -> str:
    tables = {table.name: table for table in config.tables}
    groups: list[Iterable[str]] = [
        print_settings(config),
        print_certificates(config),
        [print_table(table) for table in config.tables if not inline(table)],
        [f"mda wrapper {string(wrapper.name)} {string(wrapper.command)}" for wrapper in config.wrappers],
        [print_action(action, tables) for action in config.actions],
        [*print_socket(config.socket), *(print_listen(listen, tables) for listen in config.listeners)],
        [print_match(match, tables) for match in config.matches],
    ]
    return "\n".join(group for lines in groups if (group := "".join(f"{line}\n" for line in lines)))


def print_settings(config: Config) -> Iterator[str]:
    default = Config()
    if config.dispatchers != default.dispatchers:
        yield f"dispatchers {config.dispatchers}"
    if config.sandbox_required is not None:
        yield f"sandbox {'required' if config.sandbox_required else 'optional'}"
    if config.queue_compression:
        yield "queue compression"
    if config.queue_key:
        yield f"queue encryption key {string(config.queue_key)}"
    if config.queue_ttl != default.queue_ttl:
        yield f"queue ttl {interval(config.queue_ttl)}"
    if config.max_message_size != default.max_message_size:
        yield f"smtp max-message-size {size(config.max_message_size)}"
    if config.sub_addr_delim != default.sub_addr_delim:
        yield f"smtp sub-addr-delim {string(config.sub_addr_delim)}"
    if config.alias_commands is not None:
        yield f"alias-commands user {name(config.alias_commands)}"
    if config.ciphers != default.ciphers:
        yield f"smtp ciphers {string(config.ciphers)}"
    yield from print_limits("smtp", config.limits, default.limits)
    yield from print_limits("mda", config.delivery_limits, default.delivery_limits)
    for of_domain in config.domain_limits:  # first, so that they begin as copies of the default values
        where = f"for domain {name(of_domain.domain)}"
        changed = list(print_limits("mta", of_domain.limits, default.relay_limits, where))
        yield from changed or [f"mta limit {where}"]
    yield from print_limits("mta", config.relay_limits, default.relay_limits)
    if config.max_deferred != default.max_deferred:
        yield f"mta max-deferred {config.max_deferred}"
    yield from print_srs(config.srs)


def print_limits[T: (Limits, DeliveryLimits, RelayLimits)](
    of: str, limits: T, default: T, where: str = ""
) -> Iterator[str]:
    for field in limits.__struct_fields__:
        limit = getattr(limits, field)
        if limit != getattr(default, field):
            said = f"inet{limit}" if field == "family" else f"{field.replace('_', '-')} {limit}"
            yield " ".join(filter(None, [of, "limit", where, said]))


def print_srs(srs: Srs) -> Iterator[str]:
    if srs.key is not None:
        yield f"srs key {string(srs.key)}"
    if srs.backup is not None:
        yield f"srs key backup {string(srs.backup)}"
    if srs.ttl != Srs.ttl:
        yield f"srs ttl {interval(srs.ttl)}"


def print_certificates(config: Config) -> Iterator[str]:
    for pki in config.pki:
        yield f"pki {name(pki.name)} cert {string(pki.cert)}"
        yield f"pki {name(pki.name)} key {string(pki.key)}"
        if pki.dhe != Pki.dhe:
            yield f"pki {name(pki.name)} dhe {pki.dhe}"
    for ca in config.ca:
        yield f"ca {name(ca.name)} cert {string(ca.cert)}"


def print_table(table: Table) -> str:
    begin = f"table {name(table.name)} "
    if not table.backend:
        return begin + print_list(table, len(begin))
    return begin + name(table.backend if table.path is None else f"{table.backend}:{table.path}")


def print_action(action: Action, tables: dict[str, Table]) -> str:
    words = ["action", string(action.name), action.method.value]
    if action.target and (action.method, action.target) != (Method.MAILDIR, MAILDIR):
        words.append(string(action.target))
    if action.junk:
        words.append("junk")
    if action.rcpt_to:
        words.append("rcpt-to")
    for option in ("alias", "virtual", "userbase"):
        table = getattr(action, option)
        if table is not None:
            words += [option, print_operand(table, tables)]
    if action.user is not None:
        words += ["user", name(action.user)]
    if action.wrapper is not None:
        words += ["wrapper", string(action.wrapper)]
    if action.relay is not None:
        words += print_relay(action.relay, tables)
    if action.ttl is not None:
        words += ["ttl", interval(action.ttl)]
    return " ".join(words)


def print_relay(relay: Relay, tables: dict[str, Table]) -> Iterator[str]:
    """The options.  Those with tables come first, in the order of their numbers."""
    for option, (field, _, _) in RELAY_TABLES.items():
        table = getattr(relay, field)
        if table is not None:
            yield f"{option.replace('_', '-')} {print_operand(table, tables)}"
    if relay.failover:
        yield "failover"
    if relay.backup:
        yield "backup" + (f" mx {name(relay.backup_name)}" if relay.backup_name is not None else "")
    if relay.family is not None:
        yield f"inet{relay.family}"
    if relay.helo is not None:
        yield f"helo {name(relay.helo)}"
    if relay.tls is not RelayTls.OPPORTUNISTIC:
        yield relay.tls.value
    for option, text in (("pki", relay.pki), ("ca", relay.ca)):
        if text is not None:
            yield f"{option} {name(text)}"
    for option, text in (("ciphers", relay.ciphers), ("protocols", relay.protocols), ("mail-from", relay.mail_from)):
        if text is not None:
            yield f"{option} {string(text)}"
    if relay.srs:
        yield "srs"


def print_socket(socket: ListenSocket) -> Iterator[str]:
    words = [f"tag {string(socket.tag)}"] if socket.tag else []
    words += ["mask-src"] * socket.mask_src + ["no-dsn"] * socket.no_dsn
    if words:
        yield " ".join(["listen on socket", *words])


def print_listen(listen: Listen, tables: dict[str, Table]) -> str:
    words = ["listen on", name(listen.operand)]
    if listen.family is not None:
        words.append(f"inet{listen.family}")
    if listen.port is not None:
        words.append(f"port {listen.port}")
    if listen.hostname is not None:
        words.append(f"hostname {name(listen.hostname)}")
    if listen.tag:
        words.append(f"tag {string(listen.tag)}")
    return " ".join([*words, *print_tls(listen), *print_auth(listen, tables), *print_trust(listen, tables)])


def print_tls(listen: Listen) -> Iterator[str]:
    if listen.tls is not None:
        yield listen.tls
    if listen.verify:
        yield "verify"
    for pki in listen.pki:
        yield f"pki {name(pki)}"
    if listen.ca is not None:
        yield f"ca {name(listen.ca)}"
    if listen.ciphers is not None:
        yield f"ciphers {string(listen.ciphers)}"
    if listen.protocols is not None:
        yield f"protocols {string(listen.protocols)}"


def print_auth(listen: Listen, tables: dict[str, Table]) -> Iterator[str]:
    if listen.auth is not None:
        yield listen.auth
    if listen.credentials is not None:
        yield print_operand(listen.credentials, tables)
    if listen.scram:
        yield "scram"
    if listen.senders is not None:
        yield f"senders {print_operand(listen.senders, tables)}"
    if listen.masquerade:
        yield "masquerade"
    if listen.received_auth:
        yield "received-auth"


def print_trust(listen: Listen, tables: dict[str, Table]) -> Iterator[str]:
    """The options about names and trust: hostnames, mask-src, no-dsn, proxy, xclient."""
    if listen.hostnames is not None:
        yield f"hostnames {print_operand(listen.hostnames, tables)}"
    if listen.mask_src:
        yield "mask-src"
    if listen.no_dsn:
        yield "no-dsn"
    if listen.proxy is not None:
        yield listen.proxy
    if listen.xclient is not None:
        yield f"xclient {print_operand(listen.xclient, tables)}"


def print_match(match: Match, tables: dict[str, Table]) -> str:
    criteria = [("from ", match.source), ("for ", match.destination)]
    more = (match.tag, match.helo, match.tls, match.auth, match.mail_from, match.rcpt_to)
    criteria += [("", condition) for condition in more if condition]
    decision = "reject" if match.action is None else f"action {string(match.action)}"
    return " ".join(["match", *(print_condition(group, condition, tables) for group, condition in criteria), decision])


def print_condition(group: str, condition: Condition, tables: dict[str, Table]) -> str:
    words = ("!" if condition.negated else "") + group + condition.kind
    if condition.operand is None:
        return words
    operand = print_operand(condition.operand.table, tables)
    return f"{words} {'regex ' if condition.operand.regex else ''}{operand}"


def print_operand(operand: str, tables: dict[str, Table]) -> str:
    table = tables.get(operand)
    return print_list(table) if table and inline(table) else f"<{name(operand)}>"


def print_list(table: Table, column: int = 0) -> str:
    """A list or a mapping, in one line if it fits."""
    if table.pairs is not None:
        entries = [f"{string(key)} = {string(value)}" for key, value in table.pairs]
    elif len(table.entries) == 1 and inline(table):
        return string(table.entries[0])
    else:
        entries = [string(entry) for entry in table.entries]
    line = f"{{ {', '.join(entries)} }}"
    return line if column + len(line) <= WIDTH else "{\n\t" + "\n\t".join(entries) + "\n}"


def inline(table: Table) -> bool:
    return table.name.startswith("<")


def interval(seconds: int) -> str:
    """A time interval in the largest unit without a remainder."""
    unit = next(unit for unit in "dhms" if seconds % SECONDS_PER_UNIT[unit] == 0)
    return f"{seconds // SECONDS_PER_UNIT[unit]}{unit}"


def size(number: int) -> str:
    unit = next(unit for unit in "GMKB" if number and number % BYTES_PER_UNIT[unit] == 0 or unit == "B")
    return f"{number // BYTES_PER_UNIT[unit]}{unit.rstrip('B')}"


def name(text: str) -> str:
    """A word, in quotes where they are needed."""
    return text if PLAIN.fullmatch(text) and text not in RESERVED else string(text)


def string(text: str) -> str:
    """A string in quotes.  Within them a backslash is special only before a quote, a blank and a tab.

    A backslash at the end cannot be written in quotes: such a string was an unquoted word and is printed as one.
    """
    if text.endswith("\\"):
        return text.replace("\\", "\\\\")
    chars = []
    for before, char in zip(" " + text, text, strict=False):
        escaped = char == '"' or (char in " \t" and before == "\\")
        chars.append("\\" + char if escaped else char)
    return f'"{"".join(chars)}"'
