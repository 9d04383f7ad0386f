"""How processes talk: frames, descriptors, channels, event loops.

    declaration     @imsg: a class, its arrows, its limits; the table they make
    frame           the 16 bytes in front of each payload
    channel         a socket between two processes: batched out, strictly decoded in
    channel_set     the channels of one process on its event loop
    loop            the event loop of dispatcher, lookup and queue: uvloop
    selector_loop   that of all others: selectors of the standard library
    event_loop      what a process may want of either
    request_window  requests without an answer, and the window that bounds them
    answer_cache    answers that are kept for a while; a question that several have is asked once
    query           what a program asks control in one word, without the table of imsgs
    log             one process's log lines on their way out
    text_limit      whether a text fits the type of the imsg field that it goes into
    signal_disposition  signals as a program is started with them, reset
    os_error        what the system says of a failure, in words

It knows nothing of mail.
"""
