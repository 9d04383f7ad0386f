"""smtpd.conf, from text to the slices that the processes get.

    text --lexer, grammar--> model --printer--> text
                               |
                               +--slicing--> one slice per process

Only the one-shot `smtpd -x config` and `smtpd -n` read text.  The processes see `slice.py` and nothing else.
"""
