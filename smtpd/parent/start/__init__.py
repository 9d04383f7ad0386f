"""What the parent runs before Begin.

option         the command line                      daemonize   detach from the caller
boot           from the command line to Begin        state       what there is of the daemon so far
check          what must hold before any process is started
directory      spool and empty directory             pidfile     one daemon, and which
configuration  the process that parses it            processes   the nursery and the six
spawn          a process, executed afresh            wire        socketpairs, from the arrows
await_child    waiting for answers without a loop    log_pipes   pipes for the log, until control reads them
bind           sockets bound at the start            activation  sockets that the service manager has bound
sandboxes      what holds of them, and our own       certificates  keys and certificates
"""
