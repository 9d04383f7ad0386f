"""queue: mail and envelopes on disk, and handing mail to the agents of its recipients.

    process      the opening: who may say what to us
    state        what the process holds
    reservation  message ids for the dispatchers
    incoming     messages that are being received
    delivery     envelopes that are due, and what became of them
    forward      the text of a .forward, for lookup
    agents       the users' processes that take mail from us
    places       which of them may be alive
    scan         what was in the spool at the start
    listing      what smtpctl wants to see
    disk         all of the following, as the loop sees it
    commit       many changes in one transaction
    store        what a store of envelopes does; sqlite and ram are two of them
    salvage      reading on where a row or a page of the database is damaged
    spool        files of large messages, and the lock on all of it
    space        is there room on the disk?
    cache        what was just stored
    worker       threads that wait for the disk

Interprets nothing of a mail.  Nothing is answered before it is durable.
"""
