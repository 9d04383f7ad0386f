"""make bench: mail for local users, smtpd beside Postfix and OpenSMTPD, on this machine, now.

    smtp-source --N mails over S sessions--> server --> a place (place.py)        until all N have arrived there

Each place, and for it each server in turn, several rounds, one after the other so that a slow minute hits all.  The
table shows medians, and ratios within this run, which are what can be compared with another day's or another machine's.
CPU is the whole machine's (/proc/stat), with the load generator and the kernel's threads in it.

Everything happens in namespaces of its own (network: no DNS; mounts: a user database with the users it needs; pids: all
ends with it) and below one directory that is removed.  Needs root; the peers come from tests/peers.sh.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.bench.ground import Ground, Unavailable, inside, unshared
from tests.bench.load import Load, Measure, run
from tests.bench.place import PLACES
from tests.bench.server import SERVERS

TOP = Path(__file__).parent.parent.parent


def arguments():
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Mail for local users, side by side.")
    parser.add_argument("--into", default=",".join(PLACES), help="places, with commas: " + ", ".join(PLACES))
    parser.add_argument("--messages", type=int, help="a round (default 2000; users 1000, flood 10000)")
    parser.add_argument("--size", type=int, default=4096, help="bytes of a message (default 4096)")
    parser.add_argument("--sessions", type=int, default=5, help="at a time (default 5; OpenSMTPD collapses at 20)")
    parser.add_argument("--kept", action="store_true", help="many mails a connection instead of one")
    parser.add_argument("--rounds", type=int, default=5, help="medians of so many (default 5)")
    parser.add_argument("--only", default=",".join(SERVERS), help="servers, with commas: " + ", ".join(SERVERS))
    parser.add_argument("--directory", default="/var/tmp", help="on the disk to measure on (default /var/tmp)")
    parser.add_argument("--ground", help=argparse.SUPPRESS)  # the directory, for the part in the namespaces
    return parser.parse_args()


def main():
    options = arguments()
    if options.ground:
        inside()
        compare(options)
        return 0
    if os.geteuid() != 0:
        print("bench: needs root: it makes namespaces and a system user of its own", file=sys.stderr)
        return 1
    subprocess.run(["sh", str(TOP / "tests/peers.sh")], check=True)
    directory = tempfile.mkdtemp(prefix="smtpd-bench-", dir=options.directory)
    try:
        return subprocess.run(unshared([*sys.argv[1:], "--ground", directory])).returncode
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def compare(options):
    ground = Ground(Path(options.ground))
    results = {}
    for name in options.into.split(","):
        place = PLACES[name]
        load = Load(options.messages or place.MESSAGES, options.size, options.sessions, options.kept)
        servers = [server for server in options.only.split(",") if server in place.AGAINST]
        results[name] = load, compared(place, servers, ground, load, options.rounds)
    show(results, options)


def compared(place, names, ground, load, rounds):
    measures = {name: [] for name in names}
    for turn in range(rounds + 1):  # the first one warms up: disk blocks, caches
        for name in list(measures):
            try:
                measure = measured(name, place(ground), ground, load if turn else load.short())
            except Unavailable as error:
                print(f"bench: {place.NAME}, {name}: {error}", file=sys.stderr)
                del measures[name]
                continue
            if turn:
                print(f"  {turn}/{rounds} {place.NAME:8} {name:10} {measure}", file=sys.stderr)
                measures[name].append(measure)
    return {name: some for name, some in measures.items() if some}


def measured(name, place, ground, load):
    server = SERVERS[name](ground, place)
    try:
        server.start()
        try:
            return run(server, load)
        finally:
            server.stop()
    finally:
        place.close()


def show(results, options):
    print(f"\n{Load(0, options.size, options.sessions, options.kept)}; medians of {options.rounds}\n")
    print(f"{'':42}{'mails/s':>9}{'ms CPU':>9}   smtpd is")
    for name, (load, measures) in results.items():
        ours = median(measures.get("smtpd", []))
        print(f"{load.messages} mails, {PLACES[name].LABEL}")
        for server, all_of_it in measures.items():
            one = median(all_of_it)
            ratio = f"{ours.rate / one.rate:.2f} x as fast" if ours and server != "smtpd" else ""
            print(f"    {PLACES[name].NAME:10}{SERVERS[server].LABEL:28}{one.rate:9.0f}{one.cpu:9.2f}   {ratio}")
        if ours:
            print("    of smtpd's CPU, ms a mail: " + ", ".join(f"{role} {cost:.2f}" for role, cost in ours.shares))
    print()
    for name in options.only.split(","):
        print(f"{name}: {SERVERS[name].DURABILITY}")


def median(measures):
    if not measures:
        return None
    shares = {role for measure in measures for role, _ in measure.shares}
    return Measure(
        statistics.median(measure.rate for measure in measures),
        statistics.median(measure.cpu for measure in measures),
        sorted(
            ((role, statistics.median(dict(m.shares).get(role, 0) for m in measures)) for role in shares),
            key=lambda share: -share[1],
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
