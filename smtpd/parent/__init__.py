"""The parent: starts the others, binds what needs root, answers a few questions about names, and stops everybody.

process   its opening, and who may ask what        boot      from the command line to Begin
option    the command line                         child     a process of the daemon, made by fork and exec
wire      socketpairs, from the arrows             listener  bound sockets
service   the questions: who, how many, how long   watch     who died and why; the order of stopping
place     spool, empty directory, pid file         record    the log's pipes, before control reads them
notify    the service manager
"""
