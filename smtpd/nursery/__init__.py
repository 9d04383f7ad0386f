"""The nursery: forks, becomes a user, and nothing else.

process      its opening                             children     table of forked children
account      which users there are, and may receive  user_lookup  children that ask the name service
child_main   a child, from fork to its work
"""
