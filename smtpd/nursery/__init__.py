"""The nursery: forks, becomes a user, and nothing else.

process   its opening                              brood     the children: asked for, alive, dead
person    which users there are, who may receive   clerk     who asks the name service
cradle    from fork to the first line of work
"""
