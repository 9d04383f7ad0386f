"""How processes talk: frames, descriptors, channels, and the wiring made from the arrows.

    declaration   @imsg: a class, its arrows, its limits; the table they make
    frame         the 16 bytes in front of each payload
    channel       a socket between two processes: batched out, strictly decoded in
    loop          the one event loop of the six
    selector_loop the event loop of parent and nursery
    request_window  requests under way and the window that bounds them
    query         what a program asks control in one word, without the table of imsgs
    log           one process's log lines on their way out
    text_limit    whether a text fits the type that it will travel in
    signal_disposition  signals, whatever a program was started with
    os_error      what the system says of a failure, in words

Knows nothing of mail.
"""
