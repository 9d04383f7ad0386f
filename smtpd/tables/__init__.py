"""Tables: what a name in the configuration stands for, and the language of alias and .forward values.

    table       what all tables can do: check a key, find its value, be unavailable
    inline      a list or a mapping that stands in the configuration itself; the builtin ones too
    file        one that stands in a text file
    passwd      one in a file like passwd(5)
    db          one that makemap made
    sqlite      one in somebody's database
    program     one that a program answers for
    matching    when a key matches an entry: domains, addresses, networks, strings, regular expressions
    regex       regular expressions in time proportional to what they are matched against
    opening     from the configuration to a table
    text        text files as numbered lines, and what is wrong with them
    candidate   the keys under which a name is looked up
    piece       alias values and lines of a .forward, cut at their commas
    expansion   `bob, amy@there.test, "|command", /file` as targets
    userinfo    `uid:gid:home`, the values of a userbase
    credential  what is kept of a password, the values of a table of credentials
    crypt       hashes of crypt(3)
    scram       what SCRAM-SHA-256 needs

Knows nothing of rules, envelopes or processes.
"""
