"""The parent: starts the others, binds what needs root, answers a few questions about names, and stops everybody.

process      its opening, and who may say what    daemon       what it is while everybody runs
option       the command line                     ground       what it lets go of at the very start
boot         from the command line to Begin       answer       waiting for a child while there is no loop yet
check        what must hold before that
child        a process, executed afresh           wire         socketpairs, from the arrows
listener     bound sockets                        activation   those that the service manager has bound
interface    those that have no address yet       directory    spool and empty directory
pidfile      one daemon, and which                record       the log's pipes, until control reads them
watch        who died and why; the order of stopping
notify       the service manager

certificate  files of keys and certificates       exchange     who takes them, and whether they fit
reload       HUP

service      what may be asked of root: the table
user         FindUser                             line         what the nursery is asked, and until when
agent        StartAgent, EndAgent                 post         which agents the configuration allows
mailbox      LockMailbox, UnlockMailbox           worker       the thread that their system calls are made by
program      those that answer for tables         password     CheckPassword
"""
