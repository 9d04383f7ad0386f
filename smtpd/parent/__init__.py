"""The parent: root starts the other processes, answers a few questions about names, and stops them all.

In start/ is what runs before Begin: no process has read anything that others wrote.  The modules of this folder are all
that runs here as root afterwards; only process.py, which runs the start, imports anything of it (tests/test_house.py).

process             its opening, and who may say what
daemon              the parent while the others run: its services, the log, the end
watch               which child died and why; the order of stopping
child               a process: its channel, its pid, how it ended
cleanup             what must not outlive the daemon
syslog, notify      syslogd, and the service manager

privileged_request  what may be asked of root: the table
nursery_request     requests to the nursery, and until when each is answered
user                FindUser
agent               StartAgent, EndAgent
permitted_agent     which agents the configuration allows
mailbox             LockMailbox, UnlockMailbox
password            CheckPassword
table_program       programs that answer for tables
blocking_call       a thread for system calls that may take long

reload              SIGHUP
certificate_update  keys and certificates: handed over, and used when all of them fit
certificate_file    their files
late_listener       listeners whose interface comes after the start
listener            a bound socket
"""
