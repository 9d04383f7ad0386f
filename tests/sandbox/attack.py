"""What an intruder would try who runs code in one of our processes."""

import ctypes
import fcntl
import importlib
import mmap
import os
import pwd
import resource
import signal
import socket
import struct
import termios
import threading

from act import World, act, before, raw

from smtpd.sandbox import libseccomp

AT_FDCWD = -100
CLONE_NEWUSER = 0x10000000


def call(name: str, *arguments: int | bytes | None) -> int:
    return raw(libseccomp.number_of(name), *arguments)


def simple(name: str, *arguments: int | bytes | None, call_name: str | None = None) -> None:
    """An attack that is one system call."""

    def attempt(world: World) -> None:
        call(call_name or name, *arguments)

    attempt.__name__ = name
    act(attempt)


# -- files ---------------------------------------------------------------------------------


@act
def read_the_shadow_file(world: World) -> None:
    open("/etc/shadow").close()


@act
def read_a_public_file(world: World) -> None:
    open("/etc/passwd").close()


@act
def look_for_a_file(world: World) -> None:
    os.stat("/etc/passwd")


@act
def list_the_root(world: World) -> None:
    os.listdir("/")


@act
def overwrite_outside(world: World) -> None:
    os.close(os.open("/etc/passwd", os.O_WRONLY))


@act
def create_outside(world: World) -> None:
    os.close(os.open("/var/tmp/intruder", os.O_WRONLY | os.O_CREAT, 0o600))


@act
def truncate_by_opening_for_reading(world: World) -> None:
    os.close(os.open("/etc/passwd", os.O_RDONLY | os.O_TRUNC))


@act
def make_a_nameless_file(world: World) -> None:
    os.close(os.open("/var/tmp", os.O_RDWR | os.O_TMPFILE, 0o600))


@act
def rename_outside(world: World) -> None:
    os.rename("/var/tmp/intruder", "/var/tmp/intruder2")


@act
def climb_out_of_the_root(world: World) -> None:
    """The oldest way out of a chroot: another one, while the working directory stays behind."""
    call("chroot", b".")


@act
def read_by_proc(world: World) -> None:
    open(f"/proc/{world.sibling}/environ").close()


simple("open_by_the_old_call", b"/etc/passwd", os.O_RDONLY, 0, call_name="open")
simple("open_with_flags_behind_a_pointer", AT_FDCWD, b"/etc/passwd", bytes(24), 24, call_name="openat2")
simple("open_with_flags_in_the_upper_half", AT_FDCWD, b"/var/tmp/intruder", os.O_CREAT | 1 << 40, call_name="openat")
simple("change_a_mode", 1, 0o4777, call_name="fchmod")
simple("change_a_mode_by_name", AT_FDCWD, b"/", 0o777, 0, call_name="fchmodat")
simple("change_an_owner", AT_FDCWD, b"/", 0, 0, 0, call_name="fchownat")
simple("change_times", AT_FDCWD, b"/", None, 0, call_name="utimensat")
simple("make_a_symbolic_link", b"/etc/shadow", AT_FDCWD, b"link", call_name="symlinkat")
simple("make_a_device", AT_FDCWD, b"kmem", 0o020600, 0x102, call_name="mknodat")
simple("set_an_attribute", b"/", b"user.x", b"y", 1, 0, call_name="setxattr")
simple("truncate_by_name", b"/etc/passwd", 0, call_name="truncate")
simple("open_by_number", AT_FDCWD, bytes(64), 0, call_name="open_by_handle_at")
simple("watch_a_directory", 0, call_name="inotify_init1")

# -- running something -----------------------------------------------------------------


@act
def run_a_shell(world: World) -> None:
    os.execv("/bin/sh", ["sh", "-c", "echo in"])


@act
def fork(world: World) -> None:
    if os.fork() == 0:
        os._exit(0)


@act
def run_a_shell_from_a_thread(world: World) -> None:
    """A thread started in the sandbox is in it."""
    thread = threading.Thread(target=run_a_shell, args=(world,))
    thread.start()
    thread.join()


simple("run_by_descriptor", 0, b"", None, None, 0x1000, call_name="execveat")
simple("vfork", call_name="vfork")
simple("fork_with_all_of_memory", 0x100 | signal.SIGCHLD, 0, 0, 0, 0, call_name="clone")
simple("fork_into_a_user_namespace", CLONE_NEWUSER | signal.SIGCHLD, 0, 0, 0, 0, call_name="clone")
simple("a_thread_in_a_user_namespace", 0x10900 | CLONE_NEWUSER, 0, 0, 0, 0, call_name="clone")
simple("clone_with_flags_behind_a_pointer", bytes(88), 88, call_name="clone3")

# -- memory --------------------------------------------------------------------------------


@act
def map_memory_to_run(world: World) -> None:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)


@act
def make_memory_executable(world: World) -> None:
    page = mmap.mmap(-1, 4096)
    call("mprotect", ctypes.addressof(ctypes.c_char.from_buffer(page)), 4096, mmap.PROT_READ | mmap.PROT_EXEC)


@act
def write_to_the_code_of_a_callback(world: World) -> None:
    """The pages that libffi left both writable and executable were sealed on the way in."""
    ctypes.memset(world.ready[1], 0x90, 16)


@before("write_to_the_code_of_a_callback")
def make_a_callback(world: World) -> None:
    callback = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 1)
    code = ctypes.cast(callback, ctypes.c_void_p).value
    assert code is not None
    world.ready = callback, code


simple("memory_as_a_file", b"x", 0, call_name="memfd_create")
simple("make_memory_executable_by_key", 0, 4096, 5, -1, call_name="pkey_mprotect")
simple("read_implies_exec", 0x0400000, call_name="personality")
simple("attach_shared_memory_to_run", 0, None, 0o100000, call_name="shmat")

# -- the interpreter -----------------------------------------------------------------------


@act
def import_something(world: World) -> None:
    importlib.import_module("zipapp")


@act
def import_from_the_working_directory(world: World) -> None:
    import sys

    sys.path.insert(0, ".")
    importlib.import_module("intruder")


@act
def load_a_library(world: World) -> None:
    ctypes.CDLL("libthread_db.so.1")


@act
def decode_a_character_set_that_a_mail_named(world: World) -> None:
    b"x".decode("cp1140")


# -- sockets -------------------------------------------------------------------------------


@act
def open_a_tcp_socket(world: World) -> None:
    socket.socket(socket.AF_INET6, socket.SOCK_STREAM).close()


@act
def open_a_udp_socket(world: World) -> None:
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()


@act
def open_a_unix_socket(world: World) -> None:
    socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).close()


@act
def open_a_raw_socket(world: World) -> None:
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()


@act
def ping(world: World) -> None:
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP).close()


@act
def open_a_netlink_socket(world: World) -> None:
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close()


@act
def open_a_packet_socket(world: World) -> None:
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()


@act
def open_a_crypto_socket(world: World) -> None:
    socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET).close()


@act
def open_a_vsock(world: World) -> None:
    socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).close()


@act
def pair_of_datagrams_that_could_be_sent_elsewhere(world: World) -> None:
    socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)


@act
def reconnect_a_pair(world: World) -> None:
    one, _ = socket.socketpair()
    one.connect("/run/systemd/notify")


@act
def send_to_an_address(world: World) -> None:
    one, _ = socket.socketpair()
    one.sendto(b"x", "/run/systemd/notify")


@act
def attach_a_filter_to_a_socket(world: World) -> None:
    one, _ = socket.socketpair()
    one.setsockopt(socket.SOL_SOCKET, 26, bytes(16))


@act
def talk_to_an_abstract_socket(world: World) -> None:
    """Landlock keeps out what has no path; without `unix` there is no such socket to begin with."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as outgoing:
        outgoing.connect(world.ready.getsockname())


@before("talk_to_an_abstract_socket")
def listen_on_an_abstract_socket(world: World) -> None:
    reading, writing = os.pipe()
    if os.fork() == 0:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
            listening.bind(f"\0{os.getpid()}")
            listening.listen()
            os.write(writing, listening.getsockname())
            os.close(writing)
            os.close(reading)
            signal.alarm(5)
            listening.accept()
        os._exit(0)
    os.close(writing)
    name = os.read(reading, 100)

    class Named:
        getsockname = staticmethod(lambda: name)

    world.ready = Named


# -- other processes -----------------------------------------------------------------------


@act
def kill_a_sibling(world: World) -> None:
    os.kill(world.sibling, 0)


@act
def kill_the_own_group(world: World) -> None:
    os.kill(0, 0)


@act
def kill_everybody(world: World) -> None:
    os.kill(-1, 0)


@act
def signal_a_thread_of_a_sibling(world: World) -> None:
    call("tgkill", world.sibling, world.sibling, 0)


@act
def signal_by_thread_alone(world: World) -> None:
    call("tkill", world.sibling, 0)


@act
def queue_a_signal(world: World) -> None:
    call("rt_sigqueueinfo", world.sibling, 10, bytes(128))


@act
def limit_a_sibling(world: World) -> None:
    resource.prlimit(world.sibling, resource.RLIMIT_NOFILE)


@act
def slow_a_sibling(world: World) -> None:
    call("sched_setaffinity", world.sibling, 8, struct.pack("=Q", 1))


@act
def lower_the_priority_of_a_sibling(world: World) -> None:
    os.setpriority(os.PRIO_PROCESS, world.sibling, 5)


@act
def trace_a_sibling(world: World) -> None:
    call("ptrace", 16, world.sibling, 0, 0)


@act
def read_the_memory_of_a_sibling(world: World) -> None:
    call("process_vm_readv", world.sibling, None, 0, None, 0, 0)


@act
def hold_a_sibling(world: World) -> None:
    os.pidfd_open(world.sibling)


@act
def have_signals_sent_by_the_kernel(world: World) -> None:
    """A descriptor with O_ASYNC signals whom F_SETOWN names."""
    fcntl.fcntl(0, fcntl.F_SETOWN, world.sibling)


@act
def type_for_somebody(world: World) -> None:
    fcntl.ioctl(0, termios.TIOCSTI, b"x")


@act
def compare_with_a_sibling(world: World) -> None:
    call("kcmp", os.getpid(), world.sibling, 0, 0, 0)


simple("take_a_descriptor", 0, 0, 0, call_name="pidfd_getfd")
simple("advise_a_sibling", 0, None, 0, 4, 0, call_name="process_madvise")

# -- the kernel ----------------------------------------------------------------------------


@act
def a_32_bit_system_call(world: World) -> None:
    ctypes.CFUNCTYPE(ctypes.c_int)(world.ready[1])()


@before("a_32_bit_system_call")
def write_the_code_for_it(world: World) -> None:
    """mov eax, 20 (getpid of i386); int 0x80; ret"""
    page = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
    world.ready = page, ctypes.addressof(ctypes.c_char.from_buffer(page))


@act
def a_system_call_of_the_x32_abi(world: World) -> None:
    raw(0x40000000 | 39)  # getpid


@act
def a_system_call_from_the_future(world: World) -> None:
    raw(463)


simple("set_up_an_io_uring", 8, bytes(120), call_name="io_uring_setup")
simple("a_user_namespace", CLONE_NEWUSER, call_name="unshare")
simple("join_a_namespace", 0, 0, call_name="setns")
simple("mount", b"none", b"/", b"tmpfs", 0, None, call_name="mount")
simple("unmount", b"/", 0, call_name="umount2")
simple("pivot_the_root", b"/", b"/", call_name="pivot_root")
simple("open_a_file_system", b"tmpfs", 0, call_name="fsopen")
simple("clone_a_mount", AT_FDCWD, b"/", 1, call_name="open_tree")
simple("load_a_bpf_program", 5, bytes(128), 128, call_name="bpf")
simple("read_the_keyring", 0, -3, 0, 0, 0, call_name="keyctl")
simple("add_a_key", b"user", b"x", b"y", 1, -3, call_name="add_key")
simple("count_events", bytes(128), 0, -1, -1, 0, call_name="perf_event_open")
simple("handle_page_faults", 0, call_name="userfaultfd")
simple("load_a_module", 0, b"", 0, call_name="finit_module")
simple("load_a_kernel", 0, 0, None, 0, call_name="kexec_load")
simple("become_root", 0, call_name="setuid")
simple(
    "take_capabilities", struct.pack("=Ii", 0x20080522, 0), struct.pack("=6I", *[0xFFFFFFFF] * 6), call_name="capset"
)
simple("become_traceable", 4, 1, 0, 0, 0, call_name="prctl")
simple("outlive_the_parent", 1, 0, 0, 0, 0, call_name="prctl")
simple("another_filter", 1, 0, bytes(16), call_name="seccomp")
simple("shared_memory_of_system_v", 0x1234, 4096, 0o1666, call_name="shmget")
simple("a_message_queue", b"x", 0o102, 0o666, None, call_name="mq_open")
simple("splice_into_a_pipe", 0, None, 1, None, 1, 0, call_name="splice")
simple("a_timer_that_signals_others", 0, bytes(64), bytes(8), call_name="timer_create")
simple("a_segment_of_its_own", 1, bytes(16), 16, call_name="modify_ldt")


@act
def ask_for_a_user(world: World) -> None:
    """glibc asks nscd, then reads modules: no process under promises may call it."""
    for number in range(2000):
        pwd.getpwnam(f"user{number}")


# -- what one may do with oneself --------------------------------------------------------


@act
def limit_oneself(world: World) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
    resource.getrlimit(resource.RLIMIT_NOFILE)


@act
def signal_oneself(world: World) -> None:
    signal.signal(signal.SIGUSR1, lambda *_: None)
    os.kill(os.getpid(), signal.SIGUSR1)
    signal.raise_signal(signal.SIGUSR1)


@act
def abort(world: World) -> None:
    os.abort()
