"""TLS for a process that has no private key.

    facts      what is known of a connection once its handshake is done
    signing    how a signature is asked for, and answered
    library    the libcrypto and libssl that Python itself is linked to
    key        a key that signs by asking, made from a certificate
    context    certificates, protocols and ciphers of a listener
    link       one connection, without I/O: ciphertext and plaintext, in and out

Knows nothing of mail, and of no process.
"""
