"""Each process's sandbox from the inside: what an intruder tries there, and that the process can do its work.

The rows are the table of processes of the design; a fresh interpreter enters each one's sandbox on a running event loop
(agents: without one) for every single act.
"""

import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="seccomp and Landlock are Linux's")

UID, GID = 64001, 64001


class Row(NamedTuple):
    promises: str
    root: bool = True  # its own root directory
    letters: str = ""  # what it may do there, or in the one directory that is unveiled
    loop: bool = True


ROWS = {
    "dispatcher": Row("stdio inet recvfd sendfd"),
    "lookup": Row("stdio rpath inet dns", root=False, letters="r"),
    "queue": Row("stdio rpath wpath cpath flock recvfd sendfd memfd", letters="rwc"),
    "scheduler": Row("stdio"),
    "crypto": Row("stdio"),
    "control": Row("stdio recvfd sendfd"),
    "maildir agent": Row("stdio rpath wpath cpath flock recvfd", root=False, letters="rwc", loop=False),
    "lmtp agent, TCP": Row("stdio inet recvfd", root=False, loop=False),
    "lmtp agent, socket": Row("stdio unix recvfd", root=False, loop=False),
}

KILLED = "killed"
# What comes of an attack in every sandbox.
EVERYWHERE = {
    KILLED: """
        climb_out_of_the_root open_by_the_old_call truncate_by_opening_for_reading make_a_nameless_file
        change_a_mode change_a_mode_by_name change_an_owner change_times make_a_symbolic_link make_a_device
        set_an_attribute truncate_by_name open_by_number watch_a_directory
        run_a_shell fork run_a_shell_from_a_thread run_by_descriptor vfork fork_with_all_of_memory
        fork_into_a_user_namespace a_thread_in_a_user_namespace
        map_memory_to_run make_memory_executable make_memory_executable_by_key read_implies_exec
        attach_shared_memory_to_run
        open_a_raw_socket ping open_a_netlink_socket open_a_packet_socket open_a_crypto_socket open_a_vsock
        pair_of_datagrams_that_could_be_sent_elsewhere attach_a_filter_to_a_socket
        kill_a_sibling kill_the_own_group kill_everybody signal_a_thread_of_a_sibling signal_by_thread_alone
        queue_a_signal limit_a_sibling slow_a_sibling lower_the_priority_of_a_sibling trace_a_sibling
        read_the_memory_of_a_sibling hold_a_sibling have_signals_sent_by_the_kernel type_for_somebody
        compare_with_a_sibling take_a_descriptor advise_a_sibling
        a_32_bit_system_call a_system_call_of_the_x32_abi
        a_user_namespace join_a_namespace mount unmount pivot_the_root open_a_file_system clone_a_mount
        load_a_bpf_program read_the_keyring add_a_key count_events handle_page_faults load_a_module load_a_kernel
        become_root take_capabilities become_traceable outlive_the_parent another_filter shared_memory_of_system_v
        ask_for_a_user a_message_queue splice_into_a_pipe a_timer_that_signals_others a_segment_of_its_own
    """,
    "ENOSYS": """
        open_with_flags_behind_a_pointer clone_with_flags_behind_a_pointer set_up_an_io_uring
        a_system_call_from_the_future
    """,
    "signal 11": "write_to_the_code_of_a_callback",
    "signal 6": "abort",
    "ModuleNotFoundError": "import_something import_from_the_working_directory",
    "OSError": "load_a_library",
    "LookupError": "decode_a_character_set_that_a_mail_named",
    "done": """
        limit_oneself signal_oneself
        run_2000_timers use_the_threads_of_the_loop use_threads use_much_memory draw_random_numbers tell_the_time
        print_tracebacks print_the_traceback_of_a_callback talk_over_a_pair talk_over_a_blocking_pair call_a_callback
        look_at_oneself pass_a_descriptor take_clients_of_a_unix_socket
    """,
}

REFUSED = ("EACCES", "ENOENT")  # by the filter or Landlock, or because an own root has nothing by that name

# promise -> act -> what comes of it with the promise, and without it
BY_PROMISE: dict[str, dict[str, tuple[str | tuple[str, ...], str | tuple[str, ...]]]] = {
    "rpath": {
        "read_the_shadow_file": (REFUSED, "EACCES"),
        "read_a_public_file": (REFUSED, "EACCES"),
        "read_by_proc": (REFUSED, "EACCES"),
        "look_for_a_file": ((*REFUSED, "done"), "EACCES"),
        "list_the_root": (("EACCES", "done"), "EACCES"),
        "read_what_is_unveiled": ("done", "EACCES"),
    },
    "memfd": {"memory_as_a_file": ("done", KILLED)},
    "wpath": {"overwrite_outside": (REFUSED, KILLED)},
    "cpath": {
        "create_outside": (REFUSED, KILLED),
        "rename_outside": (REFUSED, KILLED),
        "open_with_flags_in_the_upper_half": (REFUSED, KILLED),
        "keep_a_database": ("done", (KILLED, "OperationalError")),
        "keep_files": ("done", KILLED),
        "lock_files": ("done", KILLED),
    },
    "inet": {
        "open_a_tcp_socket": ("done", KILLED),
        "connect_by_tcp": ("done", KILLED),
        "serve_by_tcp": ("done", KILLED),
        "connect_from_an_address_of_ours": ("done", KILLED),
        "run_out_of_descriptors": ("done", KILLED),
        # a stream of a pair stays connected where it is
        "reconnect_a_pair": (("ENOENT", "EISCONN"), KILLED),
    },
    "dns": {
        "open_a_udp_socket": ("done", KILLED),
        "ask_by_udp": ("done", KILLED),
        "send_to_an_address": ("EISCONN", KILLED),
    },
    "unix": {"open_a_unix_socket": ("done", KILLED), "talk_to_an_abstract_socket": ("EPERM", KILLED)},
}

# What more than one promise allows: this one decides.
OVERRULED: dict[str, dict[str, str | tuple[str, ...]]] = {
    "lmtp agent, socket": {
        "send_to_an_address": "EISCONN",
        "reconnect_a_pair": ("ENOENT", "EISCONN"),
        # it may make the socket that glibc asks nscd by, and finds nobody there
        "ask_for_a_user": ("KeyError", KILLED),
    },
}


def expected(name: str) -> dict[str, tuple[str, ...]]:
    """What may come of each act in the sandbox of that row."""
    promises = ROWS[name].promises.split()
    outcomes: dict[str, str | tuple[str, ...]] = {
        act: outcome for outcome, acts in EVERYWHERE.items() for act in acts.split()
    }
    for promise, acts in BY_PROMISE.items():
        outcomes |= {act: given if promise in promises else lacking for act, (given, lacking) in acts.items()}
    outcomes |= OVERRULED.get(name, {})
    return {act: (outcome,) if isinstance(outcome, str) else outcome for act, outcome in outcomes.items()}


def surprises(name: str, outcomes: dict[str, str]) -> dict[str, str]:
    """The acts that ended as they should not."""
    allowed = expected(name)
    return {
        act: outcome
        for act, outcome in outcomes.items()
        if act not in allowed or outcome.splitlines()[0].split(":")[0] not in allowed[act]
    }


@functools.cache
def besiege(row: Row, *, unprivileged: bool = False, strict: bool = False) -> dict[str, str]:
    """The outcome of every act in the sandbox of `row`."""
    base = tempfile.mkdtemp(prefix="siege")
    try:
        pathlib.Path(base, "aliases").write_text("root: amy\n")
        for path in (base, f"{base}/aliases"):
            os.chmod(path, 0o755)
            if os.geteuid() == 0:
                os.chown(path, 64999 if unprivileged else UID, GID)
        order = {
            "user": (UID, GID),
            "root": base if row.root else None,
            "base": base,
            "promises": row.promises,
            "unveil": [("/" if row.root else base, row.letters)] if row.letters else [],
            "loop": row.loop,
            "unprivileged": unprivileged,
            "strict": strict,
        }
        siege = os.path.join(os.path.dirname(os.path.realpath(__file__)), "siege.py")
        run = subprocess.run(
            [sys.executable, "-I", "-P", siege], input=json.dumps(order), capture_output=True, text=True, timeout=60
        )
        assert run.returncode == 0, run.stderr
        return json.loads(run.stdout)
    finally:
        shutil.rmtree(base)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to have an own uid and an own root directory")
@pytest.mark.parametrize("name", ROWS)
def test_every_attack_ends_as_designed_and_the_work_can_be_done(name):
    outcomes = besiege(ROWS[name])
    assert surprises(name, outcomes) == {}
    missed = expected(name).keys() - outcomes.keys()
    assert not missed if ROWS[name].loop else len(missed) < 10


@pytest.mark.parametrize("name", ["dispatcher", "lookup", "queue", "maildir agent"])
def test_without_root_the_same_holds_by_the_filter_and_landlock(name):
    assert surprises(name, besiege(ROWS[name], unprivileged=True)) == {}


def test_a_process_at_work_looks_for_no_file():
    """Where that is death, as on OpenBSD, the same work can be done: nothing is left to be opened later."""
    refused = [act for act, outcome in expected("dispatcher").items() if "EACCES" in outcome]
    outcomes = besiege(ROWS["dispatcher"], unprivileged=os.geteuid() != 0, strict=True)
    for act in (*refused, "load_a_library", "run_out_of_descriptors"):
        assert outcomes.pop(act) == KILLED
    assert surprises("dispatcher", outcomes) == {"look_at_oneself": KILLED}  # os.cpu_count
