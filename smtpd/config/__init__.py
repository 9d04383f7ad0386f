"""smtpd.conf, from text to the slices that the processes get.

    text --parse/--> tree --build/--> model --resolve/--> one slice for each process
                                      | ^
                                      v |
                               printer, parser

    parser   text -> model: sentences, macros, included files
    parse/   the characters, words and sentences of the language      grammar.lark: the language itself
    build/   sentences -> model; which names are declared and used
    model    what the file says; the same on every machine
    printer  model -> text
    check/   warnings, and errors in what the configuration names: tables, keys, users
    resolve/ model and machine -> slices (smtpd/slice.py)
    host     the machine: its interfaces, names, users and files
    errors   what is wrong, and in which line

    specifier, shell_line     %{...} in a path or a command; read by agents, too
    trust, file_permission    who else may write a file
    process                   `smtpd -x config`, the one-shot process
    configtest                `smtpd -n`

Only `smtpd -x config` and `smtpd -n` read the text.  The processes of the daemon get their slice and nothing else.
"""
