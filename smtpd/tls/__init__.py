"""TLS for a process that has no private key.

    facts        what is known of a connection once its handshake is done
    signing      how a signature is asked for, and answered
    library      the libcrypto and libssl that Python itself is linked to
    kind         which keys can sign for another process
    private      a private key: read, tried, and used by the process that has it
    key          a key that signs by asking, made from a certificate
    certificate  ours and those of authorities, as they come out of files
    context      certificates, protocols and ciphers of a listener
    link         one connection, without I/O: ciphertext and plaintext, in and out

Knows nothing of mail, and of no process.
"""
