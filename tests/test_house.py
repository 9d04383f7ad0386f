"""The architecture, asked of the code itself."""

import ast
import builtins
import functools
import graphlib
import re
import tokenize
from collections import defaultdict
from pathlib import Path

import pytest

from mail_local import lmtp
from smtpd.agent import lmtp as lmtp_agent
from smtpd.crypto import keyring
from smtpd.dispatcher import state as dispatcher_state
from smtpd.dispatcher.inbound import connections, handshake
from smtpd.imsg import (
    TABLE,
    Begin,
    Configure,
    EnterSandbox,
    SandboxEntered,
    TakeControlSocket,
    TakeListener,
    TakeLog,
    TakePeer,
    TakeQueueKeys,
    TakeSigningSocket,
)
from smtpd.nursery import children
from smtpd.parent import agent as parent_agent
from smtpd.parent import watch
from smtpd.queue import state as queue_state
from smtpd.queue.agents import pool, slots
from smtpd.queue.agents.routing import LMTP_LIMITS
from smtpd.tls import signing

TOP = Path(__file__).parent.parent
PROCESSES = {
    "parent",
    "nursery",
    "dispatcher",
    "lookup",
    "queue",
    "scheduler",
    "crypto",
    "control",
    "agent",
    "password",
}
ONE_SHOTS = {"config", "password"}
# From the bottom to the top: a room imports rooms that stand before it, and itself; so there is no circle.
ROOMS = (
    *("sandbox", "envelope", "next_hop", "relay_entry", "selection", "paths", "domain_name", "slice"),
    "ipc",  # how processes talk
    *("imsg", "errand", "boot"),  # what they say
    *("header", "tls", "smtp", "tables", "mail_local", "relay"),
    "config",
    "smtpctl",
)
# Edges against that order, each with its reason.
ALLOWED_EDGES: dict[tuple[str, str], str] = {}
FILES = sorted(path for folder in ("smtpd", "smtpctl", "mail_local") for path in (TOP / folder).rglob("*.py"))

# Handed over before a process has a loop: boot.receive and the parent's own boot take them.
BOOT = {
    Configure,
    TakePeer,
    TakeListener,
    TakeQueueKeys,
    TakeSigningSocket,
    TakeControlSocket,
    TakeLog,
    EnterSandbox,
    SandboxEntered,
}


@functools.cache
def parsed(path):
    return ast.parse(path.read_text())


def remembered(generator):
    """That function of a file, whose results several tests ask for."""
    return functools.cache(functools.wraps(generator)(lambda path: tuple(generator(path))))


@remembered
def imports(path):
    """The modules that a file names in its imports, anywhere in it."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(path):
    """The folder or module below smtpd/, or the top folder."""
    parts = path.relative_to(TOP).with_suffix("").parts
    return parts[1] if parts[0] == "smtpd" else parts[0]


def rooms_imported(path):
    """The rooms, processes included, that a file imports from."""
    for module in imports(path):
        top, _, rest = module.partition(".")
        if top in ("smtpctl", "mail_local"):
            yield top
        elif top == "smtpd" and rest and rest not in ("PRODUCT", "VERSION"):
            yield rest.partition(".")[0]


EVERY_FILE = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(TOP)))


@EVERY_FILE
def test_rooms_form_a_graph_without_circles(path):
    """Processes stand above all rooms, and beside each other: none imports another one."""
    if path == TOP / "smtpd/__main__.py":
        return  # the one place that knows all of them
    room = room_of(path)
    for imported in {*rooms_imported(path)} - {room}:
        assert imported not in PROCESSES, f"{room} imports the process {imported}"
        if room not in PROCESSES and (room, imported) not in ALLOWED_EDGES:
            assert ROOMS.index(imported) < ROOMS.index(room), f"{room} imports {imported}"


def test_no_edge_is_allowed_in_vain():
    edges = {(room_of(path), imported) for path in FILES for imported in rooms_imported(path)}
    assert ALLOWED_EDGES.keys() <= edges


@pytest.mark.parametrize("path", sorted((TOP / "smtpd/parent").glob("*.py")), ids=lambda path: path.name)
def test_what_root_runs_once_children_can_speak_needs_nothing_of_the_start(path):
    """So that what an auditor has to read is one folder without its subfolder.  process.py runs the start first."""
    if path.name != "process.py":
        assert not [module for module in imports(path) if module.startswith("smtpd.parent.start")]


def imports_at_loading(path):
    """The modules that are imported with a file; not those that a function of it imports when it is called."""
    nodes = list(parsed(path).body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.ImportFrom):
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            nodes += ast.iter_child_nodes(node)


def test_modules_form_a_graph_without_circles():
    """Within a room too; an import for types only counts like any other."""
    modules = {".".join(path.relative_to(TOP).with_suffix("").parts): path for path in FILES}
    graph = {name: modules.keys() & {*imports_at_loading(path)} for name, path in modules.items()}
    tuple(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


@EVERY_FILE
def test_only_the_agent_imports_local_delivery(path):
    """And the parent, which makes and locks mailboxes, the one module for that."""
    found = {module for module in imports(path) if module.split(".")[0] == "mail_local"}
    if found and room_of(path) not in {"agent", "mail_local"}:
        assert room_of(path) == "parent"
        assert found <= {"mail_local", "mail_local.mailbox"}


@EVERY_FILE
def test_every_file_has_a_room_and_says_what_it_is(path):
    relative = path.relative_to(TOP)
    assert relative.stem in ("__init__", "__main__") or room_of(path) in {*PROCESSES, *ROOMS}
    if path.read_text().strip():
        assert ast.get_docstring(parsed(path)), "has no docstring"


@remembered
def texts(path):
    """The docstrings of a file, and its comments, those on lines that follow each other as one text."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""
    comments = ""
    with tokenize.open(path) as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.type == tokenize.COMMENT:
                comments += token.string.lstrip("#")
            elif token.type not in (tokenize.NL, tokenize.NEWLINE):
                yield comments
                comments = ""


# "Raises Violation, or OSError for …, ValueError when …": names stand first, and those of two words anywhere else too.
RAISES = re.compile(r"\b[Rr]aises((?:,? (?:(?:and|or) )?[A-Z][A-Za-z]+\b)*)([^.;]*(?:\.\b[^.;]*)*)")
CLASS_NAME = re.compile(r"\b[a-z]\w*\.[A-Z][a-z]\w*|(?<![\w.])(?:OS|IO|[A-Z][a-z]+)[A-Z][a-z][A-Za-z]*(?!\.?\w)")


def exceptions_named(text):
    """The names of exceptions in a text that says what is raised; one of another module as module.Name."""
    for first, rest in RAISES.findall(" ".join(text.split())):
        yield from (name for name in re.findall(r"[A-Z][A-Za-z]+", first) if not name.isupper())
        yield from CLASS_NAME.findall(rest)


@remembered
def names_visible(path):
    """The classes that a module defines, what it imports, and what Python has builtin."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.ClassDef):
            yield node.name
    yield from dir(builtins)


@EVERY_FILE
def test_an_exception_that_a_text_names_is_visible_in_its_module(path):
    """So that a new name of an exception reaches the docstrings and comments that say it is raised."""
    for module, _, name in {name.rpartition(".") for text in texts(path) for name in exceptions_named(text)}:
        paths = [other for other in FILES if other.stem == module] if module else [path]
        assert not paths or name in {name for other in paths for name in names_visible(other)}


@functools.cache
def files_there():
    """Each file of the code and of the tests, as /smtpd/ipc/log.py."""
    return [f"/{path.relative_to(TOP).as_posix()}" for path in [*FILES, *(TOP / "tests").rglob("*.py")]]


@EVERY_FILE
def test_a_file_that_a_text_names_is_there(path):
    """`alias_lexer.py` anywhere in the tree, `build/value.py` in a folder of that name."""
    for named in {named for text in texts(path) for named in re.findall(r"(?<![\w./])[\w/]+\.py\b", text)}:
        assert any(other.endswith(f"/{named}") for other in files_there()), named


def test_names_of_exceptions_are_found_in_texts():
    found = [
        *exceptions_named("The result.  Raises Refused, Violation or\n    OSError.  Then Maildir."),
        *exceptions_named("Raises MailboxError for a file, SentenceError if not.  Raises nothing: see FooBar"),
        *exceptions_named("raises trust.Untrusted, as OpenSMTPD; what it raises; Raises READ_ERRORS."),
    ]
    known = ["Refused", "Violation", "OSError", "MailboxError", "SentenceError"]
    assert found == [*known, "FooBar", "trust.Untrusted"]


def routes_of_processes():
    """Each arrow between processes of ours, but for the one-shots: there is one question, and one answer."""
    return sorted((s, r) for s, r in TABLE.routes() if r in PROCESSES - {"agent"} and not {s, r} & ONE_SHOTS)


@pytest.mark.parametrize("sender, receiver", routes_of_processes())
def test_each_process_handles_exactly_what_it_can_be_sent(sender, receiver):
    expected = {d.cls.__name__ for d in TABLE.between(sender, receiver).values() if d.cls not in BOOT}
    handler = find_function(TOP / f"smtpd/{receiver}/process.py", f"from_{sender}")
    if handler is None:
        assert not expected, f"{receiver} has no from_{sender}"
        return
    handled = {node.cls.id for node in ast.walk(handler) if isinstance(node, ast.MatchClass)}
    assert handled == expected


@pytest.mark.parametrize("role", sorted(PROCESSES - {"agent", "password"}))
def test_the_handlers_of_a_process_are_checked_by_mypy(role):
    """An `Any` among their parameters would turn the check off."""
    for function in ast.walk(parsed(TOP / f"smtpd/{role}/process.py")):
        if isinstance(function, ast.FunctionDef) and function.name.startswith("from_"):
            state, peer, *rest = [ast.unparse(argument.annotation) for argument in function.args.args]
            assert state[0].isupper() and peer in ("Channel", "Client") and rest == ["object", "int | None"]


def find_function(path, name):
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return node
    return None


@pytest.mark.parametrize("role", sorted(PROCESSES - {"agent", "parent", "nursery"}))
def test_a_process_opens_with_its_user_its_root_and_its_promises(role):
    names = [
        name.id
        for node in parsed(TOP / f"smtpd/{role}/process.py").body
        if isinstance(node, ast.Assign)
        for target in node.targets
        for name in ast.walk(target)
        if isinstance(name, ast.Name)
    ]
    assert names[:3] == ["USER", "CHROOT", "PLEDGE"]


@pytest.mark.parametrize("role", sorted(PROCESSES))
def test_a_process_says_what_falls_if_it_falls(role):
    docstring = ast.get_docstring(parsed(TOP / f"smtpd/{role}/process.py"))
    assert docstring is not None and "SECURITY" in docstring


def test_every_answer_goes_back_the_way_its_request_came():
    for declaration in TABLE.declarations:
        if declaration.answers is not None:
            asked = TABLE.by_class[declaration.answers]
            assert declaration.routes == {(b, a) for a, b in asked.routes}, declaration.cls.__name__


def test_begin_comes_after_everything_that_is_handed_over():
    order = [declaration.cls for declaration in TABLE.declarations]
    assert all(order.index(cls) < order.index(Begin) for cls in BOOT)


def creating_flags(nodes):
    """The names among `nodes` of what open(2) makes a file with."""
    return {
        target.id
        for node in nodes
        if isinstance(node, ast.Assign) and "O_CREAT" in ast.unparse(node.value)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def calls(path):
    """Each call in a function, with the names of flags by which a file is made there."""
    module = parsed(path)
    for function in ast.walk(module):
        if isinstance(function, ast.FunctionDef):
            flags = creating_flags(module.body) | creating_flags(ast.walk(function))
            for node in ast.walk(function):
                if isinstance(node, ast.Call):
                    yield node, ast.unparse(node.func), flags


@EVERY_FILE
def test_whatever_is_made_has_a_mode_that_is_said(path):
    """The default of open(2) and mkdir(2) gives everybody what the umask of the caller does not take away."""
    for node, name, flags in calls(path):
        where = f"line {node.lineno}: {ast.unparse(node)}"
        words = {ast.unparse(part) for argument in node.args for part in ast.walk(argument)}
        if name.endswith(".open") and words & {"os.O_CREAT", *flags}:
            assert len(node.args) > 2, where
        elif name in ("os.mkdir", "os.makedirs", "os.mkfifo"):
            assert len(node.args) > 1, where
        elif name == "open" and len(node.args) > 1 and set(ast.unparse(node.args[1])) & set("wax"):
            assert not isinstance(node.args[0], ast.Constant | ast.JoinedStr), where
            assert words & {"descriptor", "os.memfd_create"}, where
        assert not name.endswith((".write_text", ".write_bytes", ".touch")), where


# -- one definition of what two processes have to agree on ----------------------------------------------------------

# Constants that bear the same name and the same value in two rooms, and do not depend on each other.
ALIKE = {
    "BACKLOG": "asyncio listens once more on a socket that listens",
    "CHROOT": "a process says its own at its opening",
    "EX_FAILED": "the exit status of programs",
    "EX_SOFTWARE": "sysexits.h",
    "FIRST_PAUSE": "pauses of one process",
    "IN_MEMORY": "of a program",
    "LABEL_MAX": "RFC 1035",
    "LINKS_MAX": "as many as Linux follows, path_resolution(7)",
    "LOOKUP_TIMEOUT": "each for its own question",
    "MAX_LABEL": "RFC 1035",
    "MONTHS": "RFC 3164 and RFC 5322",
    "PIECE": "of a buffer",
    "READ_SIZE": "of a buffer",
    "REASON_MAX": "of one process",
    "STOP_TIMEOUT": "each for its own work",
    "TYPE_CHECKING": "False",
    "USER": "a process says its own at its opening",
    "WIDTH": "RFC 2045",
}


def constants(path):
    """Names in capitals that a module gives a value that does not depend on others: (name, value)."""
    for statement in parsed(path).body:
        if not isinstance(statement, ast.Assign | ast.AnnAssign) or statement.value is None:
            continue
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        for target in targets:
            pairs = [(target, statement.value)]
            if isinstance(target, ast.Tuple) and isinstance(statement.value, ast.Tuple):
                pairs = zip(target.elts, statement.value.elts, strict=True)
            for name, value in pairs:
                if isinstance(name, ast.Name) and name.id.isupper() and is_plain(value):
                    yield name.id.lstrip("_"), repr(eval(compile(ast.Expression(value), str(path), "eval")))


def is_plain(value):
    plain = (ast.Constant, ast.BinOp, ast.UnaryOp, ast.Tuple, ast.Dict, ast.Set, ast.operator, ast.unaryop, ast.Load)
    return all(isinstance(node, plain) for node in ast.walk(value))


def test_what_two_rooms_have_to_agree_on_is_defined_once():
    """A constant of the same name and value in two rooms is one constant, which both import; or it is listed above."""
    rooms = defaultdict(set)
    for path in FILES:
        for constant in constants(path):
            rooms[constant].add(room_of(path))
    alike = {constant[0] for constant, found in rooms.items() if len(found) > 1}
    assert alike - ALIKE.keys() == set(), "import it from one place, or say in ALIKE why they need not agree"
    assert ALIKE.keys() - alike == set(), "listed in vain"


def test_a_process_ends_before_the_parent_loses_its_patience():
    wanted = queue_state.STOP_TIMEOUT + queue_state.SCHEDULER_STOP_TIMEOUT
    assert wanted < watch.STOP_TIMEOUTS["queue"]
    assert watch.STOP_TIMEOUTS["dispatcher"] > dispatcher_state.STOP_TIMEOUT


def test_each_step_of_an_lmtp_server_ends_before_queue_loses_its_patience():
    longest_silence = lmtp_agent.PROGRESS_INTERVAL + max(lmtp.CONNECT_TIMEOUT, *lmtp.LMTP_TIMEOUT.values())
    assert longest_silence < LMTP_LIMITS.deadline


def test_a_key_outlives_every_handshake_that_may_be_under_way_with_it():
    assert (
        keyring.REPLACED_KEY_TIME
        > handshake.HANDSHAKE_TIMEOUT + connections.SWEEP_INTERVAL + 2 * signing.SIGNING_TIMEOUT
    )


def test_there_are_places_for_all_agents_that_queue_may_have():
    assert slots.SLOTS_MAX + pool.SLOW_SLOTS <= parent_agent.AGENTS_MAX <= children.AGENTS_MAX
