"""A word for the names of users, namespaces and sockets that tests make, other than that of any other run.

Not the pid: runs in two containers have the same ones, and so has a run after one that was killed and left its users.
"""

import secrets

MARK = secrets.token_hex(3)
