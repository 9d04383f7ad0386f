"""Relaying without I/O: which message goes to which host, over which connection, when, and under what TLS.

destinations    the events and actions; what a destination does next
  destination   a destination, and the hosts that take its mail
  host_choice   which of them may be used now
  task, tasks   one attempt of one message; how its envelopes get their results
  connection, connections    the states of a connection; those that are open
  action        what the relay wants its driver to do
host            how many connections a host bears; its address families
route           from one of our addresses to one of a host's; how long it rests after a failure
limit           connections at a time, pauses, messages a minute
back_off        how long failures in a row last
address_order   which address of a host is tried first, and from which of ours
tls_policy      what must hold of a connection before mail is sent over it
tls_result      as what a connection is counted
mta_sts         the policies of RFC 8461
http_answer     the answer of a host that has one
tls_memory      which hosts have had TLS

Knows no replies and no commands: those belong to the SMTP client.
"""
