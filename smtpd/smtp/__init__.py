"""The SMTP protocol without I/O: bytes, answers and "now" go in, actions come out.

server       a session of a client
  verb       what may be said when
  greeting   HELO, STARTTLS, XCLIENT: who talks to whom; extension: what EHLO announces
  login      AUTH, around the mechanisms of auth; sasl: what they are made of; scram: one of them
  mail       MAIL and RCPT; parameter: what stands behind the address
  content    DATA and BDAT
transaction  one message on its way in
state        what a session is waiting for, and what comes after what; masking: what of a command may be logged
command      one line -> a verb and its argument
address      paths, mailboxes, domains, literals; host: numeric addresses
line         the line discipline of commands
data, chunk  the content of a message, in bulk; text: what it may consist of
reply        what is answered
transfer     content on its way out
lmtp         the client's side of LMTP; response: what a server answers it
xclient      what a proxy says of its client; proxy: the header that others say it by
xtext        any text as one word
question     what a session asks others
action       what it wants done
"""
