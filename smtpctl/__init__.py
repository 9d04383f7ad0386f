"""smtpctl: what an administrator says to a running daemon.

word         the words of a command line -> one command; prefixes, possibilities
command      all commands: their words, what they ask, what they print
connection   the socket: one question, one answer
makemap      a text file -> a table that is looked up in
newaliases   checks the aliases, and has them read again
text         what is printed: the lines of the queue, values made visible
"""
