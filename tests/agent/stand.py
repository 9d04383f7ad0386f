"""One agent in a process of its own, as nursery starts it: become the user, prepare, enter the sandbox, serve.

Arguments: descriptor of its socket, kind, path, junk (0 or 1), home, uid, limit=number …
Environment: PROGRAM, its filter ready-made, in hexadecimal.
"""

import os
import resource
import socket
import sys

from smtpd import sandbox
from smtpd.agent.process import prepare
from smtpd.ipc.errand import PROMISES


def main():
    descriptor, kind, path, junk, home, uid, *limits = sys.argv[1:]
    number = int(uid)
    program = bytes.fromhex(os.environ["PROGRAM"])
    for name, value in (limit.split("=") for limit in limits):
        resource.setrlimit(getattr(resource, name), (int(value), int(value)))
    if os.geteuid() == 0:
        os.setgroups([number])
        os.setresgid(number, number, number)
        os.setresuid(number, number, number)
    sandbox.rehearse()
    agent = prepare(kind, path, junk == "1", "bob", home)
    ids = sandbox.Ids(os.getuid(), os.getgid())
    sandbox.enter(ids, None, PROMISES[kind], unveil=agent.places, program=program, required=True)
    agent.serve(socket.socket(fileno=int(descriptor)))
    os._exit(0)


main()
