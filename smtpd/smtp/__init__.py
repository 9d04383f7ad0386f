"""The SMTP protocol without I/O: bytes, answers and "now" go in, actions come out.

server     a session of a client: what may be said when
command    one line -> a verb and its argument; the parameters of MAIL and RCPT
address    paths, mailboxes, domains, literals
line       the line discipline of commands
data       the content of a message, in bulk
reply      what is answered
lmtp       the client's side of LMTP; response: what a server answers it
question   what a session asks other processes
action     what it wants done
"""
