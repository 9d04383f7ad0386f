"""smtpd.conf, from text to the slices that the processes get.

    text --lexer, grammar--> model --printer--> text
                               |
                               +--slicing--> one slice per process

    model    what the file says            slice    what a process is told
    parser   text -> model                 slicing  model and host -> slices
    printer  model -> text                 host     the machine's names and addresses
    error    what is wrong, and where

    of the parser:  source (characters)  lexer (words)  grammar.lark, syntax (sentences)
                    builder, operand, action, listener, certificate, rule (their meaning)  mistake (the lack of it)
                    value, target, protocol (of one word)  specifier, shell (%{...} in it)
                    names (declared, and used)
    of slicing:     door, address (listeners)  tablefile, alias, people, program, password (what tables lead to)
                    use, entry (whether tables are good for what they are asked)  doubt (what is hardly meant)
    command         `smtpd -n`             keyfile  the files of pki and ca, looked at for it
    trust           what root may read     place    where the daemon's own files are

Only the one-shot `smtpd -x config` and `smtpd -n` read text.  The processes see `slice.py` and nothing else.
"""
