"""The keys under which a name is looked up in an alias or virtual table, the most specific one first.

    alias      bob+lists                bob+lists, bob
    virtual    bob+lists@here.test      bob+lists@here.test, bob@here.test, bob+lists, bob, @here.test, @
               bob+lists                bob+lists, bob            a user that an expansion named: no catch-all

The first key that has a value is used.  The domain is in its normal form.
"""


def alias_keys(user: str, delimiter: str) -> tuple[str, ...]:
    """The user with and without its sub-address; no empty key, no duplicates."""
    return tuple(dict.fromkeys(filter(None, (user, user.partition(delimiter)[0]))))


def virtual_keys(local: str, domain: str, delimiter: str) -> tuple[str, ...]:
    """The keys of an address.  `domain` is empty for a user that an expansion named."""
    users = alias_keys(local, delimiter)
    if not domain:
        return users
    return (*(f"{user}@{domain}" for user in users), *users, f"@{domain}", "@")
