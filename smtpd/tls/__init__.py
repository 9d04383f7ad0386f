"""TLS for a process that has no private key.

    facts            what is known of a connection after its handshake
    signing          protocol for signatures made by another process
    openssl_library  the libcrypto and libssl that Python itself is linked to
    key_kind         which kinds of keys can sign for another process
    private_key      a private key, in the process that has it
    remote_key       a key whose signatures another process makes
    certificate      our certificates and those of authorities, read from files
    context          certificates, protocols and ciphers of a listener
    connection       one connection, without I/O: ciphertext and plaintext, in and out
    client_context, client_connection   the same of connections to other hosts, whose certificates are verified

Knows nothing of mail and of processes.
"""
