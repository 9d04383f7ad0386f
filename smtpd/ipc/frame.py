"""The header in front of each payload: 16 bytes, as OpenBSD's imsg has them.

    type u16 | flags u16 | length u32, header included | peer id u32 | pid u32      all big-endian

`peer id` carries the digest of the table between smtpctl and control, and is 0 between processes of one daemon.
"""

import struct

HEADER = struct.Struct(">HHIII")
SIZE = HEADER.size

DESCRIPTOR = 0x0001  # flag: a descriptor travels with this frame
