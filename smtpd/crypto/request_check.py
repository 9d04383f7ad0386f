"""Checks that a signing request is one that a TLS handshake makes.  Any other request is an attack.

    RSA_PKCS1   a DigestInfo of a hash (RFC 8017 9.2), or MD5 and SHA-1 concatenated (RFC 2246 7.4.3)
    RSA_PSS     as long as the key, in the form that the padding gives it (RFC 8017 9.1.2):
                maskedDB | H | 0xbc     with DB = zeros, 0x01, a salt as long as H
    ECDSA       as long as a hash

The form of PSS matters most.  The private exponent reverses the public one: an attacker who can have any block raised
to it can decrypt recorded sessions, also with a blinded block.  In the blocks of this form, 190 bytes of a key of 2048
bits are zeros behind a mask that the block itself determines; no multiplication produces one.

No I/O.  Whether the digest is that of a handshake cannot be seen here.
"""

import hashlib

from smtpd.tls.signing import Operation

_DIGEST_INFOS = {
    hash_name: bytes.fromhex(prefix)
    for hash_name, prefix in {
        "sha1": "3021300906052b0e03021a05000414",
        "sha224": "302d300d06096086480165030402040500041c",
        "sha256": "3031300d060960864801650304020105000420",
        "sha384": "3041300d060960864801650304020205000430",
        "sha512": "3051300d060960864801650304020305000440",
    }.items()
}
_LENGTHS = {prefix: hashlib.new(name).digest_size for name, prefix in _DIGEST_INFOS.items()}
_MD5_AND_SHA1 = 36
_PSS_HASHES = ("sha256", "sha384", "sha512")  # RFC 8446 4.2.3


def is_plausible(operation: Operation, data: bytes, rsa: bool, bits: int) -> bool:
    """Whether a handshake may ask for it, of a key that is `rsa` or not, and has so many bits."""
    match operation:
        case Operation.RSA_PKCS1:
            return rsa and _is_digest_info(data)
        case Operation.RSA_PSS:
            return rsa and any(_is_padded(data, name, bits) for name in _PSS_HASHES)
        case Operation.ECDSA:
            return not rsa and len(data) in {20, *_LENGTHS.values()}


def _is_digest_info(data: bytes) -> bool:
    if len(data) == _MD5_AND_SHA1:
        return True
    return any(data.startswith(prefix) and len(data) == len(prefix) + length for prefix, length in _LENGTHS.items())


def _is_padded(block: bytes, name: str, key_bits: int) -> bool:
    """RFC 8017 9.1.2, as far as it goes without the message."""
    bits = key_bits - 1
    size, length = (bits + 7) // 8, hashlib.new(name).digest_size
    if len(block) != (key_bits + 7) // 8 or int.from_bytes(block) >> bits or block[-1] != 0xBC:
        return False
    masked, digest = block[-size : -length - 1], block[-length - 1 : -1]
    opened = int.from_bytes(masked) ^ int.from_bytes(_mask(digest, len(masked), name))
    opened &= (1 << bits - 8 * (length + 1)) - 1  # what is above the bits of the block is zero, mask or not
    return opened >> 8 * length == 1


def _mask(seed: bytes, length: int, name: str) -> bytes:
    """MGF1, RFC 8017 B.2.1."""
    mask, count = b"", 0
    while len(mask) < length:
        mask += hashlib.new(name, seed + count.to_bytes(4)).digest()
        count += 1
    return mask[:length]
