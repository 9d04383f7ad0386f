"""queue: mail and envelopes on disk, and handing mail to the agents of its recipients.

    process      the opening: who may say what to us
    state        what the process holds
    reservation  message ids for the dispatchers
    incoming     messages that are being received
    terms        when a mail may be tried, and until when
    delivery     envelopes that are due, and what became of them
    flight       one try of one of them
    renewal      what takes the place of one whose .forward has changed
    report       what the log says of them
    forward      the text of a .forward, for lookup
    roster       which agent an envelope is for, and on which terms
    agents       the users' processes that take mail from us
    agent        one of them, as far as its socket
    line         what waits for one of them
    places       which of them may be alive
    session      how many commands may run
    mailbox      the lock that an agent of an mbox needs
    scan         what was in the spool at the start
    listing      what smtpctl wants to see
    disk         all of the following, as the loop sees it
    commit       many changes in one transaction
    store        what a store of envelopes does; sqlite and ram are two of them
    schema       the tables, and a row as what it stands for
    complaint    what SQLite says, in the store's words
    salvage      reading on where a row or a page of the database is damaged
    spool        files of large messages, and the lock on all of it
    space        is there room on the disk?
    cache        what was just stored
    worker       threads that wait for the disk

Interprets nothing of a mail.  Nothing is answered before it is durable.
"""
