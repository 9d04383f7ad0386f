"""The SMTP protocol without I/O: bytes, answers and "now" go in, actions come out.

server        a session's input: lines, content, answers, time
  verb        the table of commands; the short ones
  hello       HELO, EHLO; extension: what EHLO announces
  starttls    STARTTLS
  xclient     XCLIENT; xclient_attributes: what a proxy says of its client
  login       AUTH, around the mechanisms of auth; sasl: what they are made of; scram: one of them
  mail        MAIL and RCPT; parameter: what stands behind the address
  content     DATA and BDAT
session       state, transaction, replies: what the commands call
transaction   one message on its way in
state         what a session is waiting for, and which state may follow which
question      what a session asks other processes
action        what a session wants done
command       one line -> a verb and its argument; what of it may be logged
address       paths, mailboxes, domains, literals
line          the line discipline of commands
data, chunk   the content of a message, in bulk; line_ending: which bytes it may hold; binary_mime: binary parts as text
reply         what the server answers
client        the client's side of a session, SMTP or LMTP: replies, content, time
  client_input        the methods that a driver calls; client_lmtp: a client for LMTP alone
  client_session      state, results, the end; client_state: which state may follow which, and how long each lasts
  client_greeting     EHLO, STARTTLS, AUTH; client_auth: the mechanisms
  client_transaction  mails; client_mail: MAIL, RCPT, and what a server cannot be given; client_content: DATA and BDAT
  client_action       what a client is given, and what it wants done
  client_extension    what the server offers
content_facts where a message is not ASCII; seven_bit: as ASCII, for a server without 8BITMIME; mime_walk: the parts
response      what another server answers; dot_stuffing: content on its way out
proxy         the header of the PROXY protocol
ip_address    numeric addresses of hosts
idna          addresses beyond ASCII, for a peer without SMTPUTF8
xtext         any text as one word
"""
