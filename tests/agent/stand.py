"""One agent in a process of its own, as nursery starts it: become the user, prepare, enter the sandbox, serve.

Arguments: descriptor of its socket, its post as JSON, home, uid, limit=number …
Environment: PROGRAM, its filter ready-made, in hexadecimal; empty for a kind without.  TETHER, the descriptor of the
socket that mailboxes come by, where there is one.
"""

import json
import os
import resource
import socket
import sys

from smtpd import sandbox
from smtpd.agent.process import prepare
from smtpd.ipc.errand import PROMISES, Post


def main():
    descriptor, told, home, uid, *limits = sys.argv[1:]
    post = Post(**json.loads(told))
    number = int(uid)
    program = bytes.fromhex(os.environ["PROGRAM"])
    for name, value in (limit.split("=") for limit in limits):
        resource.setrlimit(getattr(resource, name), (int(value), int(value)))
    if os.geteuid() == 0:
        os.setgroups([number])
        os.setresgid(number, number, number)
        os.setresuid(number, number, number)
    sandbox.rehearse()
    agent = prepare(post, "bob", home)
    promises = PROMISES[post.kind]
    if promises is not None:
        ids = sandbox.Ids(os.getuid(), os.getgid())
        sandbox.enter(ids, None, promises, unveil=agent.places, program=program, required=True)
    tether = os.environ.get("TETHER")
    agent.serve(socket.socket(fileno=int(descriptor)), socket.socket(fileno=int(tether)) if tether else None)
    os._exit(0)


main()
