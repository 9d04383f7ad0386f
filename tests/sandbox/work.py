"""What our processes do all day, to be done in their sandbox."""

import array
import asyncio
import concurrent.futures
import contextlib
import ctypes
import datetime
import email.utils
import fcntl
import gc
import hashlib
import io
import logging
import os
import random
import resource
import secrets
import socket
import sqlite3
import ssl
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Coroutine

from act import World, act, before


class Hear(asyncio.Protocol):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.said = bytearray()

    def data_received(self, data: bytes) -> None:
        self.said += data


class Echo(asyncio.Protocol):
    def connection_made(self, transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


async def heard(hear: Hear, length: int) -> bytes:
    while len(hear.said) < length:
        await asyncio.sleep(0)
    return bytes(hear.said)


# -- all of them -----------------------------------------------------------------------------


@act
async def run_2000_timers(world: World) -> None:
    due = [world.loop.create_future() for _ in range(2000)]
    for number, future in enumerate(due):
        world.loop.call_later(number / 100_000, future.set_result, number)
    assert await asyncio.gather(*due) == list(range(2000))


def digest(number: int) -> str:
    return hashlib.sha256(bytes(100_000 + number)).hexdigest()


@act
async def use_the_threads_of_the_loop(world: World) -> None:
    await asyncio.gather(*[world.loop.run_in_executor(None, digest, number) for number in range(40)])


@act
def use_threads(world: World) -> None:
    with concurrent.futures.ThreadPoolExecutor() as pool:
        assert len(set(pool.map(digest, range(40)))) == 40
    timer = threading.Timer(0.001, lambda: None)
    timer.start()
    timer.join()


@act
def use_much_memory(world: World) -> None:
    chunks = [bytearray(1 << 20) for _ in range(32)]
    chunks[0].extend(bytes(8 << 20))
    del chunks
    gc.collect()


@act
def draw_random_numbers(world: World) -> None:
    assert len({os.urandom(8), secrets.token_bytes(8), ssl.RAND_bytes(8), random.SystemRandom().randbytes(8)}) == 4
    random.Random().random()


@act
def tell_the_time(world: World) -> None:
    time.strftime("%c %Z")
    time.localtime()
    email.utils.formatdate(localtime=True)
    datetime.datetime.now().astimezone().isoformat()
    time.mktime(time.localtime())


def fail(depth: int) -> None:
    if depth:
        fail(depth - 1)
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError as error:
        raise ExceptionGroup("several", [KeyError("ä"), OSError(2, "x"), error]) from error


def fail_at(source: str) -> None:
    raise SyntaxError("as a parser would say it", ("nosuch.py", 1, 3, source))


class FailsInItsDestructor:
    def __del__(self) -> None:
        raise ValueError("in a destructor")


@act
def print_tracebacks(world: World) -> None:
    """By all the ways that Python prints one."""
    sys.stderr = io.StringIO()
    for source in (
        "fail(3)",
        "fail.nothing",
        "nothing_of_this_name",
        "fail_at('a b')",
        "len(1)",
        "b'x' + 'ä'",
        "import no.module",
    ):
        try:
            exec(source)
        except Exception as error:
            traceback.print_exc()
            logging.exception("in the log")
            sys.excepthook(type(error), error, error.__traceback__)
    traceback.print_stack()
    warnings.warn("beware", stacklevel=1)
    FailsInItsDestructor()
    thread = threading.Thread(target=fail, args=(1,))
    thread.start()
    thread.join()
    printed = sys.stderr.getvalue()
    for expected in ("ZeroDivisionError", "several", "NameError", "SyntaxError", "in a destructor", "beware"):
        assert expected in printed, expected


@act
async def print_the_traceback_of_a_callback(world: World) -> None:
    said: list[str] = []
    world.loop.set_exception_handler(lambda _, what: said.extend(traceback.format_exception(what["exception"])))
    world.loop.call_soon(lambda: 1 / 0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert "ZeroDivisionError" in "".join(said)


@act
async def talk_over_a_pair(world: World) -> None:
    one, other = socket.socketpair()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    await world.loop.create_connection(Echo, sock=other)
    transport, hear = await world.loop.create_connection(Hear, sock=one)
    transport.write(bytes(1 << 20))
    await heard(hear, 1 << 20)
    transport.close()


@act
def talk_over_a_blocking_pair(world: World) -> None:
    one, other = socket.socketpair()
    one.settimeout(5)
    one.sendall(b"x")
    assert other.recv(10) == b"x"
    one.sendmsg([b"y", b"z"])
    assert other.recvmsg(10)[0] == b"yz"


@act
def call_a_callback(world: World) -> None:
    """Sealing its page leaves a callback usable."""
    assert world.ready() == 17


@before("call_a_callback")
def make_the_callback(world: World) -> None:
    world.ready = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 17)


@act
def look_at_oneself(world: World) -> None:
    _ = os.getpid(), os.getppid(), os.getuid(), resource.getrusage(resource.RUSAGE_SELF), os.uname()
    _ = os.cpu_count(), len(os.sched_getaffinity(0)), sys.stdout.isatty(), os.isatty(2)


# -- descriptors ---------------------------------------------------------------------------


@act
def pass_a_descriptor(world: World) -> None:
    one, other = socket.socketpair()
    reading, writing = os.pipe()
    one.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [reading]))])
    _, [(_, _, rights)], _, _ = other.recvmsg(10, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
    os.write(writing, b"hello")
    assert os.read(int.from_bytes(rights[:4], sys.byteorder), 10) == b"hello"


@act
async def take_clients_of_a_unix_socket(world: World) -> None:
    listening, client = world.ready
    server = await world.loop.create_unix_server(Echo, sock=listening)
    transport, hear = await world.loop.create_connection(Hear, sock=client)
    client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    transport.write(b"hello")
    assert await heard(hear, 5) == b"hello"
    server.close()


@before("take_clients_of_a_unix_socket")
def bind_a_unix_socket(world: World) -> None:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(f"\0{os.getpid()}.server")
    listening.listen()
    client = socket.socket(socket.AF_UNIX)
    client.connect(listening.getsockname())
    world.ready = listening, client


# -- the network ---------------------------------------------------------------------------


@act
def connect_by_tcp(world: World) -> None:
    world.ready.listen()
    with socket.create_connection(world.ready.getsockname(), timeout=5) as client:
        connection, _ = world.ready.accept()
        client.sendall(b"hello")
        assert connection.recv(10) == b"hello"


@act
async def serve_by_tcp(world: World) -> None:
    port = world.ready.getsockname()[1]
    server = await world.loop.create_server(Echo, sock=world.ready, backlog=1000)
    for _ in range(20):
        transport, hear = await world.loop.create_connection(Hear, "127.0.0.1", port)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport.write(bytes(100_000))
        await heard(hear, 100_000)
        transport.close()
    server.close()


@act
async def connect_from_an_address_of_ours(world: World) -> None:
    world.ready.listen()
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as outgoing:
        outgoing.setblocking(False)
        outgoing.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT, which Python 3.12 has no name for
        outgoing.bind(("127.0.0.1", 0))
        await world.loop.sock_connect(outgoing, world.ready.getsockname())


@act
async def run_out_of_descriptors(world: World) -> None:
    """libuv then lets go of a spare descriptor, closes a client, and wants the spare back by opening "/"."""
    address, clients = world.ready.getsockname(), []
    server = await world.loop.create_server(Echo, sock=world.ready, backlog=1000)
    with contextlib.suppress(OSError):
        while True:
            clients.append(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            clients[-1].setblocking(False)
            clients[-1].connect_ex(address)
    for _ in range(200):
        await asyncio.sleep(0)
    for client in clients:
        client.close()
    for _ in range(200):
        await asyncio.sleep(0)
    transport, hear = await world.loop.create_connection(Hear, *address)
    transport.write(b"hello")
    assert await heard(hear, 5) == b"hello"
    server.close()


@before("connect_by_tcp")
@before("serve_by_tcp")
@before("connect_from_an_address_of_ours")
def bind_a_tcp_socket(world: World) -> None:
    world.ready = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    world.ready.bind(("127.0.0.1", 0))


@before("run_out_of_descriptors")
def have_few_descriptors(world: World) -> None:
    bind_a_tcp_socket(world)
    resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))


class EchoDatagram(asyncio.DatagramProtocol):
    def connection_made(self, transport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: tuple) -> None:
        self.transport.sendto(data, address)


class HearDatagram(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.said = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, address: tuple) -> None:
        self.said.set_result(data)


@act
async def ask_by_udp(world: World) -> None:
    server, _ = await world.loop.create_datagram_endpoint(EchoDatagram, local_addr=("127.0.0.1", 0))
    address = server.get_extra_info("sockname")
    client, hear = await world.loop.create_datagram_endpoint(HearDatagram, remote_addr=address)
    client.sendto(b"name?")
    assert await hear.said == b"name?"


# -- files ---------------------------------------------------------------------------------


@act
def read_what_is_unveiled(world: World) -> None:
    with open(os.path.join(world.base, "aliases")) as file:
        assert file.read() == "root: amy\n"
    assert "aliases" in os.listdir(world.base)


@act
def keep_a_database(world: World) -> Coroutine | None:
    if world.loop is None:
        return fill_a_database(world.base)  # type: ignore[func-returns-value]
    return world.loop.run_in_executor(None, fill_a_database, world.base)


def fill_a_database(directory: str) -> None:
    path = os.path.join(directory, "queue.db")
    writer = sqlite3.connect(path, isolation_level=None)
    for pragma in ("auto_vacuum=INCREMENTAL", "journal_mode=WAL", "synchronous=FULL", "temp_store=MEMORY"):
        writer.execute(f"PRAGMA {pragma}").fetchall()
    writer.execute("CREATE TABLE mail (id INTEGER PRIMARY KEY, content BLOB)")
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("PRAGMA query_only=1")
    for turn in range(5):
        writer.execute("BEGIN IMMEDIATE")
        writer.executemany("INSERT INTO mail (content) VALUES (?)", [(bytes(4000),)] * 20)
        writer.execute("COMMIT")
        assert reader.execute("SELECT count(*) FROM mail").fetchone() == ((turn + 1) * 20,)
    writer.execute("DELETE FROM mail")
    for statement in (
        "PRAGMA incremental_vacuum(100)",
        "PRAGMA wal_checkpoint(TRUNCATE)",
        "PRAGMA integrity_check",
        "SELECT randomblob(8), date('now', 'localtime')",
    ):
        writer.execute(statement).fetchall()
    reader.close()
    writer.close()
    os.unlink(path)


@act
def keep_files(world: World) -> None:
    """As a spool and a Maildir need it."""
    for name in ("tmp", "new"):
        os.mkdir(os.path.join(world.base, name), 0o700)
    directory = os.open(os.path.join(world.base, "tmp"), os.O_RDONLY | os.O_DIRECTORY)
    file = os.open("1", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory)
    os.write(file, b"hello")
    os.pwrite(file, b"H", 0)
    os.posix_fallocate(file, 0, 8192)
    os.ftruncate(file, 5)
    os.fsync(file)
    os.fdatasync(directory)
    assert os.pread(file, 10, 0) == b"Hello"
    new = os.path.join(world.base, "new")
    os.link(os.path.join(world.base, "tmp", "1"), os.path.join(new, "1"))
    os.rename(os.path.join(world.base, "tmp", "1"), os.path.join(new, "2"))
    assert sorted(os.listdir(new)) == ["1", "2"]
    assert os.stat(os.path.join(new, "1")).st_mode & 0o777 == 0o600
    for name in ("1", "2"):
        os.unlink(os.path.join(new, name))
    os.rmdir(new)
    os.rmdir(os.path.join(world.base, "tmp"))
    assert os.statvfs(world.base).f_bavail >= 0


@act
def lock_files(world: World) -> None:
    with open(os.path.join(world.base, "lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.lockf(file, fcntl.LOCK_UN)
    os.unlink(file.name)
