"""Agents in processes of their own, as nursery starts them: forked by a warm interpreter; they become the user,
prepare, enter the sandbox, serve.

    conftest --order as JSON, three sockets--> stand --fork--> warden --fork--> agent
             <------------- pid, and in the end its exit status -----'

The sockets: the agent's own, its mailbox_socket, and the one on which the warden tells.  The order is that of Agent in
conftest.py.
"""

import json
import os
import resource
import socket
import sys
import traceback
from contextlib import suppress

from smtpd import sandbox
from smtpd.agent.process import prepare
from smtpd.errand import PROMISES, AgentSpec


def main():
    orders = socket.socket(fileno=int(sys.argv[1]))
    sandbox.rehearse()
    while True:
        order, sockets, _, _ = socket.recv_fds(orders, 65536, 3)
        if not order:
            return
        if os.fork() == 0:
            orders.close()
            watch(json.loads(order), *sockets)
        for descriptor in sockets:
            os.close(descriptor)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass


def watch(order, queue, mailbox_socket, told):
    pid = os.fork()
    if pid == 0:
        os.close(told)
        live(order, queue, mailbox_socket)
    os.close(queue)
    os.close(mailbox_socket)
    os.write(told, b"%d" % pid)
    _, status = os.waitpid(pid, 0)
    with suppress(BrokenPipeError):
        os.write(told, b"%d" % os.waitstatus_to_exitcode(status))
    os._exit(0)


def live(order, queue, mailbox_socket):
    try:
        serve(order, socket.socket(fileno=queue), socket.socket(fileno=mailbox_socket))
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def serve(order, queue, mailbox_socket):
    for name, value in (limit.split("=") for limit in order["limits"]):
        resource.setrlimit(getattr(resource, name), (int(value), int(value)))
    number = order["uid"]
    if os.geteuid() == 0:
        os.setgroups([number])
        os.setresgid(number, number, number)
        os.setresuid(number, number, number)
    spec = AgentSpec(**order["spec"])
    agent = prepare(spec, "bob", order["home"])
    promises = PROMISES[spec.kind]
    if promises is not None:
        ids, program = sandbox.Ids(os.getuid(), os.getgid()), bytes.fromhex(order["program"])
        sandbox.enter(ids, None, promises, unveil=agent.visible_paths, program=program, required=True)
    agent.serve(queue, mailbox_socket)


main()
