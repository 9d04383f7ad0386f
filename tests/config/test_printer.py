"""A model that is printed and parsed again is the same model."""

import string as ascii_sets

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.config import printer
from smtpd.config.build import value
from smtpd.config.model import Action, Ca, Config, DomainLimits, Listen, ListenSocket, Pki, Relay, Srs, Table, Wrapper
from smtpd.config.parser import parse
from smtpd.slice import (
    Auth,
    Condition,
    DeliveryLimits,
    Limits,
    Match,
    Method,
    Operand,
    Proxy,
    RelayLimits,
    RelayTls,
    Tls,
)

# What a string can hold; one that ends in a backslash was a bare word.
QUOTED = st.text(
    st.sampled_from("ab \t\\\"'$#{}<>!=,()%/~@é-") | st.characters(min_codepoint=32, max_codepoint=0x3000), max_size=12
).filter(lambda text: all(char.isprintable() or char == "\t" for char in text) and not text.endswith("\\"))
BARE = st.text(ascii_sets.ascii_letters + "\\:_.", max_size=5).map(lambda text: f"x{text}\\")
TEXT = QUOTED | BARE
NAME = TEXT.filter(lambda text: bool(text) and not set(text) & set("<>\t"))
HOST = st.text(ascii_sets.ascii_letters + ascii_sets.digits + ".-:[]\"'{}\\=", min_size=1, max_size=12)
WORD = TEXT.filter(lambda text: bool(text) and "\t" not in text)
TAG = QUOTED.filter(lambda tag: len(tag) <= 32 and "\t" not in tag)
COUNT = st.integers(1, 2**31 - 1)
LIMITS = {key: st.integers(*value.LIMIT_RANGES.get(key, (1, 9))) for key in Limits.__struct_fields__}
LIST = st.lists(TEXT, min_size=1, max_size=8).map(tuple)
PAIRS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3).map(tuple)
PATH = QUOTED.filter(lambda text: "\t" not in text).map("/".__add__)
ALIASES = st.lists(st.tuples(TEXT, st.sampled_from(["amy", "|cat", "a@b, c", ":include:/x"])), min_size=1).map(tuple)
USER = st.sampled_from(["nobody", "vmail", "user", "4d", "a.b-c"])
COMMAND = st.sampled_from(
    ["cat", "cat '%{sender}' # x", 'deliver "-f %{rcpt.user:strip}"', "~/Maildir", "junk", "\\\\ x"]
)
WRAPPING = st.sampled_from(["nice %{mda}", "junk", "a \"b\" '%' %{mda} c"])
TARGETS = {
    Method.MBOX: st.just(""),
    Method.MAILDIR: st.sampled_from(["~/Maildir", "~/a b", "/v/%{user.username}", "%{user.directory}/x", '/"']),
    Method.LMTP: st.sampled_from(["mx", "mx:24", "192.0.2.1", "[::1]", "[2001:db8::1]:24", "/run/lmtp", "25"]),
    Method.MDA: COMMAND,
    Method.EXPAND_ONLY: st.just(""),
    Method.FORWARD_ONLY: st.just(""),
}


@st.composite
def operands(draw, tables: list[Table], *, may_be_mapping: bool = False, may_be_regex: bool = True):
    """A declared table or one in place, which is added to `tables`: so they are numbered as the builder does it."""
    regex = may_be_regex and draw(st.booleans())
    usable = [
        table
        for table in tables
        if table.pairs is None and table.backend != "passwd" and not table.name.startswith("<")
    ]
    if usable and not regex and draw(st.booleans()):
        return Operand(draw(st.sampled_from(usable)).name)
    name = f"<dynamic:{sum(table.name.startswith('<') for table in tables)}>"
    if may_be_mapping and not regex and draw(st.booleans()):
        table = Table(name, pairs=draw(PAIRS))
    else:
        patterns = st.lists(st.sampled_from(["", "a.b", "^x$", "[a]", "\\.x"]), min_size=1).map(tuple)
        table = Table(name, entries=draw(patterns if regex else LIST))
    tables.append(table)
    return Operand(table.name, regex)


@st.composite
def conditions(draw, kinds: dict[str, bool | None], tables: list[Table]):
    """`kinds`: whether the table may be a mapping; None if there is none."""
    kind = draw(st.sampled_from(sorted(kinds)))
    may_be_mapping = kinds[kind]
    if may_be_mapping is None or (kind in ("auth", "rdns") and draw(st.booleans())):
        return Condition(kind, draw(st.booleans()))
    operand = draw(operands(tables, may_be_mapping=may_be_mapping))
    return Condition(kind, draw(st.booleans()), operand)


MATCH_SOURCES = {
    "any": None,
    "local": None,
    "socket": None,
    "src": False,
    "rdns": False,
    "auth": True,
    "mail-from": True,
}
MATCH_DESTINATIONS = {"any": None, "local": None, "domain": False, "rcpt-to": True}
# Field, kind, the group that may have said the same, whether it may be a mapping.
CRITERIA = (
    ("tag", "tag", "", False),
    ("helo", "helo", "", False),
    ("tls", "tls", "", None),
    ("auth", "auth", "from", True),
    ("mail_from", "mail-from", "from", True),
    ("rcpt_to", "rcpt-to", "for", True),
)


@st.composite
def matches(draw, actions: list[str], tables: list[Table]):
    source = draw(conditions(MATCH_SOURCES, tables))
    destination = draw(conditions(MATCH_DESTINATIONS, tables))
    said = {("from", source.kind), ("for", destination.kind)}
    more = {}
    for field, kind, group, may_be_mapping in CRITERIA:
        if draw(st.booleans()) and (group, kind) not in said:
            more[field] = draw(conditions({kind: may_be_mapping}, tables))
    return Match(draw(st.sampled_from([None, *actions])), source, destination, **more)


@st.composite
def any_action(draw, name: str, wrappers: list[str], certificates: tuple[list[str], list[str]], tables: list[Table]):
    """What the method cannot have is left out.  Inline tables are made in the order of printing."""
    method = draw(st.sampled_from(Method))
    if method is Method.RELAY:
        return Action(name, method, relay=draw(relays(*certificates, tables)), ttl=draw(st.none() | COUNT))
    more = {"target": draw(TARGETS[method])}
    if method is Method.MAILDIR:
        more["junk"] = draw(st.booleans())
    if method is Method.LMTP:
        more["rcpt_to"] = draw(st.booleans())
    for option in draw(st.sampled_from([(), ("alias",), ("virtual",), ("userbase",), ("alias", "userbase")])):
        more[option] = draw(mappings(tables, ALIASES if option != "userbase" else PAIRS))
    if method not in (Method.MBOX, Method.EXPAND_ONLY, Method.FORWARD_ONLY):
        more["user"] = draw(st.none() | USER)
    if wrappers and method is not Method.MBOX:
        more["wrapper"] = draw(st.none() | st.sampled_from(wrappers))
    return Action(name, method, **more, ttl=draw(st.none() | COUNT))


@st.composite
def mappings(draw, tables: list[Table], pairs: st.SearchStrategy):
    usable = [table.name for table in tables if table.backend not in ("", "passwd")]
    if usable and draw(st.booleans()):
        return draw(st.sampled_from(usable))
    tables.append(Table(f"<dynamic:{sum(table.name.startswith('<') for table in tables)}>", pairs=draw(pairs)))
    return tables[-1].name


FLAG = st.booleans()
URLS = [
    "mail.example.org",
    "smtps://amy@mx",
    "smtp+tls://a@b.example@[::1]:587",
    "lmtp://10.0.0.1:24",
    "smtp+notls://x",
]
HOSTS = st.lists(st.sampled_from(URLS), min_size=1, max_size=3).map(tuple)
SOURCES = st.lists(st.sampled_from(["192.0.2.1", "::1", "2001:db8::9"]), min_size=1, max_size=3).map(tuple)
RELAY_LIMIT_VALUES = {
    key: st.integers(*value.LIMIT_RANGES.get(key, (1, 9))) for key in RelayLimits.__struct_fields__ if key != "family"
} | {"family": st.sampled_from([None, 4, 6])}
RELAY_LIMITS = st.builds(RelayLimits, **RELAY_LIMIT_VALUES)
LIMITED_DOMAINS = [(), ("example.org",), ("example.org", "local", "m\u00fcller.test")]
SRS = st.just(Srs()) | st.builds(Srs, QUOTED.filter(bool), st.none() | QUOTED.filter(bool), st.just(5 * 86400))


@st.composite
def lists(draw, tables: list[Table], entries: st.SearchStrategy):
    """A declared table in a file, or one in place."""
    usable = [table.name for table in tables if table.backend not in ("", "passwd")]
    if usable and draw(FLAG):
        return draw(st.sampled_from(usable))
    tables.append(Table(f"<dynamic:{sum(table.name.startswith('<') for table in tables)}>", entries=draw(entries)))
    return tables[-1].name


@st.composite
def relays(draw, pki: list[str], ca: list[str], tables: list[Table]):
    """Inline tables are made in the order of printing."""
    smarthost = draw(st.sampled_from(["hosts", "domains", ""]))
    more = {}
    if smarthost == "hosts":
        more["hosts"] = draw(lists(tables, HOSTS))
    elif smarthost:
        more["domains"] = draw(mappings(tables, HOSTS.map(lambda urls: tuple((f"d{url[:3]}", url) for url in urls))))
    more["tls"] = draw(st.sampled_from(RelayTls))
    if smarthost and more["tls"] is not RelayTls.UNVERIFIED:
        more["credentials"] = draw(st.none() | mappings(tables, PAIRS))
    more["helo_names"] = draw(st.none() | mappings(tables, HOST_NAMES))
    more["sources"] = draw(st.none() | lists(tables, SOURCES))
    if not smarthost and draw(FLAG):
        more |= {"backup": True, "backup_name": draw(st.sampled_from([None, "mx2.example.org", "local"]))}
    if more["tls"] is not RelayTls.UNVERIFIED and ca:
        more["ca"] = draw(st.none() | st.sampled_from(ca))
    return Relay(
        **more,
        family=draw(st.sampled_from([None, 4, 6])),
        failover=bool(more.get("hosts")) and draw(FLAG),
        helo=draw(st.sampled_from([None, "mx", "[192.0.2.1]", "backup"])),
        pki=draw(st.none() | st.sampled_from(pki)) if pki else None,
        ciphers=draw(st.sampled_from([None, "secure", "HIGH:!aNULL"])),
        protocols=draw(st.sampled_from([None, "secure", "tlsv1.2, tlsv1.3"])),
        mail_from=draw(st.sampled_from([None, "@example.org", "news", "news@example.org"])),
    )


PKI_NAMES = ["*", "a", "b.example", "*.c.example", "none", "proxy"]
SOME_PKI = st.lists(st.sampled_from(PKI_NAMES), max_size=3, unique=True)
HOST_NAMES = st.just((("192.0.2.1", "mx1"), ("::1", "proxy")))


@st.composite
def listeners(draw, pki: list[str], ca: list[str], tables: list[Table]):
    """Inline tables are made in the order of printing."""
    tls = draw(st.sampled_from([None, *Tls])) if pki else None
    more = {"tls": tls}
    if tls:
        more["pki"] = tuple(draw(st.lists(st.sampled_from(pki), min_size=1, unique=True)))
        more["ciphers"] = draw(st.sampled_from([None, "secure", "HIGH:!aNULL"]))
        more["protocols"] = draw(st.sampled_from([None, "secure", "tlsv1.2, tlsv1.3", "!tlsv1.0"]))
        more["ca"] = draw(st.sampled_from([None, *ca]))
        more["verify"] = more["ca"] is not None and tls is not Tls.OFFERED and draw(FLAG)
        more["auth"] = draw(st.sampled_from([None, *Auth]))
    if more.get("auth"):
        more["received_auth"] = draw(FLAG)
        more["credentials"] = draw(st.none() | mappings(tables, PAIRS))
        more["scram"] = more["credentials"] is not None and draw(FLAG)
        more["senders"] = draw(st.none() | mappings(tables, PAIRS))
        more["masquerade"] = more["senders"] is not None and draw(FLAG)
    more["hostnames"] = draw(st.none() | mappings(tables, HOST_NAMES))
    operand = draw(st.none() | operands(tables, may_be_regex=False))
    return Listen(
        draw(WORD),
        draw(st.none() | st.integers(1, 65535)),
        draw(st.sampled_from([None, 4, 6])),
        draw(st.none() | HOST.filter(lambda host: not host.endswith(("\\", ".")))),
        draw(TAG),
        **more,
        mask_src=draw(FLAG),
        no_dsn=draw(FLAG),
        proxy=draw(st.sampled_from([None, *Proxy])),
        xclient=operand and operand.table,
    )


@st.composite
def configs(draw):
    builtin = {"anyhost", "anydestination", "localhost", "localnames", "getpwnam"}
    names = draw(st.lists(NAME.filter(lambda name: name not in builtin), max_size=4, unique=True))
    kinds = (
        lambda name: st.builds(Table, st.just(name), entries=LIST),
        lambda name: st.builds(Table, st.just(name), pairs=PAIRS),
        lambda name: st.builds(
            Table, st.just(name), path=PATH, backend=st.sampled_from(["file", "db", "passwd", "x-1"])
        ),
        lambda name: st.builds(Table, st.just(name), backend=st.just("weather")),
    )
    tables = [draw(draw(st.sampled_from(kinds))(name)) for name in names]
    wrappers = [Wrapper(name, draw(WRAPPING)) for name in draw(st.lists(WORD, max_size=2, unique=True))]
    pki = [Pki(name, "/c", '/"k"', draw(st.sampled_from(["none", "auto", "legacy"]))) for name in draw(SOME_PKI)]
    ca = [Ca(name, "/ca") for name in draw(SOME_PKI)]
    names = [each.name for each in pki], [each.name for each in ca]
    actions = [
        draw(any_action(name, [wrapper.name for wrapper in wrappers], names, tables))
        for name in draw(st.lists(WORD, max_size=3, unique=True))
    ]
    listener_tables = [draw(listeners(*names, tables)) for _ in range(draw(st.integers(0, 3)))]
    rules = [draw(matches([action.name for action in actions], tables)) for _ in range(draw(st.integers(1, 3)))]
    declared = [table for table in tables if not table.name.startswith("<")]
    inline = [table for table in tables if table.name.startswith("<")]
    return Config(
        listeners=tuple(listener_tables),
        tables=(*declared, *inline),
        actions=tuple(actions),
        matches=tuple(rules),
        queue_ttl=draw(COUNT),
        max_message_size=draw(st.integers(0, 2**63 - 1)),
        sub_addr_delim=draw(st.sampled_from("+-=\"'#$~")),
        limits=draw(st.builds(Limits, **LIMITS)),
        delivery_limits=draw(st.builds(DeliveryLimits, COUNT, COUNT)),
        relay_limits=draw(RELAY_LIMITS),
        domain_limits=tuple(DomainLimits(name, draw(RELAY_LIMITS)) for name in draw(st.sampled_from(LIMITED_DOMAINS))),
        max_deferred=draw(st.integers(0, 9)),
        srs=draw(SRS),
        wrappers=tuple(wrappers),
        alias_commands=draw(st.none() | USER),
        sandbox_required=draw(st.sampled_from([None, True, False])),
        pki=tuple(pki),
        ca=tuple(ca),
        ciphers=draw(st.sampled_from(["", "HIGH", "secure"])),
        dispatchers=draw(st.integers(1, 64)),
        socket=draw(st.builds(ListenSocket, TAG, FLAG, FLAG)),
    )


@settings(max_examples=80, deadline=None)
@given(configs())
def test_what_is_printed_parses_to_the_same_model(config):
    assert parse("printed", text=printer.print_config(config)).config == config


@settings(max_examples=200)
@given(TEXT)
def test_any_string_survives(text):
    printed = f"table {printer.string('t')} {{ {printer.string(text)} }}\nmatch reject"
    assert parse("printed", text=printed).config.tables[0].entries == (text,)


@pytest.mark.parametrize(
    "seconds, text", [(1, "1s"), (60, "1m"), (90, "90s"), (3600, "1h"), (86400, "1d"), (90000, "25h"), (345600, "4d")]
)
def test_an_interval_is_in_the_largest_unit_that_says_it(seconds, text):
    assert printer.interval(seconds) == text


@pytest.mark.parametrize(
    "size, text", [(1, "1"), (1024, "1K"), (1025, "1025"), (35 * 1024**2, "35M"), (2**30, "1G"), (2**40, "1024G")]
)
def test_a_size_is_in_the_largest_unit_that_says_it(size, text):
    assert printer.size(size) == text
