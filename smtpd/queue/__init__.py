"""queue: mail and envelopes on disk, and handing mail to the agents of its recipients.

    process      the opening: which process may say what to us
    state        what the process holds
    reservation  which message id belongs to which process
    message_ids  blocks of free ids, and those of our own
    incoming     messages that are being received
    scan         the envelopes that were in the spool at the start, for the scheduler
    listing      pages of the queue, for smtpctl

    delivery/    from an envelope that is due to its end
        deliveries     envelopes that are due, and what the scheduler and administrators say of them
        in_flight      those that the scheduler waits for a word of
        attempt        one attempt of one of them
        carrier        what makes an attempt: agent_carrier of local mail, relay_carrier of mail to other hosts
        destination    what relayed mail shares connections by: its number, and why it is delayed
        result         what an attempt came to, for every carrier
        conclude       the one end of an envelope: store, log, scheduler
        expiry         when a mail may be tried, and until when
        reexpansion    what takes the place of an envelope whose .forward has changed
        delivery_log   lines of the log

    agents/      the users' processes that take mail from us
        routing        which agent an envelope is for, and its limits
        pool           all of them: what happens to each
        agent_state    the table of an agent's life
        agent_queue    the errands of one agent
        agent_socket   our end of the socket to it
        slots          how many agents there may be, and which has to make room
        command_slots  how many commands may run
        mailbox_lock   the lock that an agent of an mbox needs
        forward        reading a .forward, for lookup
        lmtp_features  asking an LMTP server what it offers, for lookup

    store/       what is on the disk
        disk           all of the following, as the loop sees it
        commit         many changes in one transaction
        store          rows, changes, and what a store of them does; sqlite is the one there is
        schema         the tables, and a row as what it stands for
        sqlite_errors  errors of SQLite, in the store's words
        salvage        reading on where a row or a page of the database is damaged
        spool          files of large messages, and the lock on all of it
        space          is there room on the disk?
        cache          what was just stored
        disk_threads   threads that wait for the disk

Does not interpret mail.  Nothing is answered before it is durable.
"""
