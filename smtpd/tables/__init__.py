"""Tables: what a name in the configuration stands for, and the language of alias and .forward values.

    table         what all tables can do: check a key, find its value, be unavailable
    inline        a list or a mapping in the configuration itself; the built-in ones too
    file          a text file
    passwd        a file like passwd(5)
    db            a file that makemap made
    sqlite        an SQLite database of another program
    program       a program that answers for a table
    matching      when a key matches an entry: domains, addresses, networks, strings, regular expressions
    regex         regular expressions, matched in linear time
    text_file     text files as numbered lines, and their faults
    lookup_keys   the keys under which a name is looked up
    alias_lexer   alias values and lines of a .forward, split at their commas
    alias_syntax  `bob, amy@there.test, "|command", /file` as targets
    userinfo      `uid:gid:home`, the values of a userbase
    credential    password hashes and verifiers, the values of a table of credentials
    crypt         hashes of crypt(3)
    scram         verifiers for SCRAM-SHA-256

Knows nothing of rules, envelopes or processes.
"""
