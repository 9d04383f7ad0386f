"""make bench: mail that is delivered or relayed, smtpd beside Postfix and OpenSMTPD, on this machine, now.

    smtp-source --N mails over S sessions--> server --> a place (scenario.py)     until all N have arrived there
    clients (client.py) --handshakes--> server                                    --into starttls,p256 (handshake.py)

Each place, and for it each server in turn, several rounds, one after the other so that a slow minute hits all.  The
table shows medians, and ratios within this run, which are what can be compared with another day's or another machine's.
CPU is the whole machine's (/proc/stat), with the load generator and the kernel's threads in it; "its own" is that of
the server's processes, which does not count what else the machine does.

Everything happens in namespaces of its own (network: no DNS but what a place brings; mounts: a user database with the
users it needs; pids: all ends with it) and below one directory that is removed.  Needs root; the peers come from
tests/peers.sh.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.bench.scenario import OF_MAIL, SCENARIOS
from tests.bench.server import SERVERS
from tests.bench.testbed import Testbed, Unavailable, inside, unshared

TOP = Path(__file__).parent.parent.parent


def arguments():
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Delivery and relaying, side by side.")
    places = f"places, with commas: {', '.join(SCENARIOS)} (default: those of mail)"
    parser.add_argument("--into", default=",".join(OF_MAIL), help=places)
    parser.add_argument("--messages", type=int, help="a round (default 2000; users 1000, flood and domains 10000)")
    parser.add_argument("--size", type=int, default=4096, help="bytes of a message (default 4096)")
    parser.add_argument("--sessions", type=int, default=5, help="at a time (default 5; OpenSMTPD collapses at 20)")
    parser.add_argument("--kept", action="store_true", help="many mails a connection instead of one")
    parser.add_argument("--rate", type=int, default=1000, help="handshakes a second to ask for (default 1000)")
    parser.add_argument("--clients", type=int, default=200, help="of handshakes, at a time (default 200)")
    parser.add_argument("--seconds", type=float, default=30, help="of handshakes (default 30)")
    parser.add_argument("--rounds", type=int, default=5, help="medians of so many (default 5)")
    parser.add_argument("--only", default=",".join(SERVERS), help="servers, with commas: " + ", ".join(SERVERS))
    parser.add_argument("--directory", default="/var/tmp", help="on the disk to measure on (default /var/tmp)")
    parser.add_argument("--testbed", help=argparse.SUPPRESS)  # the directory, for the part in the namespaces
    return parser.parse_args()


def main():
    options = arguments()
    if options.testbed:
        inside()
        compare(options)
        return 0
    if os.geteuid() != 0:
        print("bench: needs root: it makes namespaces and a system user of its own", file=sys.stderr)
        return 1
    subprocess.run(["sh", str(TOP / "tests/peers.sh")], check=True)
    directory = tempfile.mkdtemp(prefix="smtpd-bench-", dir=options.directory)
    try:
        return subprocess.run(unshared([*sys.argv[1:], "--testbed", directory])).returncode
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def compare(options):
    testbed = Testbed(Path(options.testbed))
    results = []
    for name in options.into.split(","):
        place = SCENARIOS[name]
        servers = [server for server in options.only.split(",") if server in place.AGAINST]
        load = place.load(options)
        results.append((place, load, compared(place, servers, testbed, load, options.rounds)))
    show(results, options)


def compared(place, names, testbed, load, rounds):
    measures = {name: [] for name in names}
    for turn in range(rounds + 1):  # the first one warms up: disk blocks, caches
        for name in list(measures):
            try:
                measure = measured(name, place(testbed), testbed, load if turn else load.short())
            except Unavailable as error:
                print(f"bench: {place.NAME}, {name}: {error}", file=sys.stderr)
                del measures[name]
                continue
            if turn:
                print(f"  {turn}/{rounds} {place.NAME:8} {name:10} {measure}", file=sys.stderr)
                measures[name].append(measure)
    return {name: some[0].middle(some) for name, some in measures.items() if some}


def measured(name, place, testbed, load):
    server = SERVERS[name](testbed, place)
    try:
        server.start()
        try:
            return load.run(server)
        finally:
            server.stop()
    finally:
        place.close()


def show(results, options):
    print(f"\nmedians of {options.rounds}")
    for place, load, measures in results:
        print(f"\n{load}, {place.LABEL}")
        ours = measures.get("smtpd")
        for server, measure in measures.items():
            if measure is next(iter(measures.values())):
                print(f"{'':42}{measure.HEADING}")
            ratio = f"   smtpd is {ours.rate / measure.rate:.2f} x as fast" if ours and server != "smtpd" else ""
            print(f"    {place.NAME:10}{SERVERS[server].LABEL:28}{measure.cells()}{ratio}")
        if ours:
            shares = ", ".join(f"{role} {cost:.2f}" for role, cost in ours.shares)
            print(f"    of smtpd's CPU, ms a {ours.UNIT}: {shares}")
    print()
    for name in options.only.split(","):
        print(f"{name}: {SERVERS[name].DURABILITY}")


if __name__ == "__main__":
    sys.exit(main())
