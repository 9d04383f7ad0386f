"""smtpctl: the control program of a running daemon, and sendmail, mailq, newaliases and makemap.

command         all commands: their words, what they ask, what they print
command_parser  the words of a command line -> one command; abbreviations, possibilities
connection      the socket to control: one question, one answer
show            commands that show something; status: `show status`
operation       commands that change something
output          output formats: the lines of the queue, JSON
sendmail        sendmail: raw_mail -> addressing -> submission; dialogue: -bs
makemap         makes a table that can be searched from a text file
newaliases      checks the aliases, and has the daemon read them again
"""
