"""smtpd.conf, from text to the slices that the processes get.

    text --lexer, grammar--> model --printer--> text
                               |
                               +--slicing--> one slice per process

    model    what the file says            slice    what a process is told
    parser   text -> model                 slicing  model and host -> slices
    printer  model -> text                 host     the machine's names and addresses
    error    what is wrong, and where

    of the parser:  source (characters)  lexer (words)  grammar.lark, syntax (sentences)
                    builder (their meaning)  value (of one word)  names (what is declared, and used)

Only the one-shot `smtpd -x config` and `smtpd -n` read text.  The processes see `slice.py` and nothing else.
"""
