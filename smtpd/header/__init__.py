"""The header of a message: the trace line that is added, and what came in, checked and mended.

    received   the Received line
    editor     loops, malformed and oversized header blocks; Bcc, Date, Message-ID
    address    the lists of addresses in To, Cc and From

Knows nothing of sessions; MIME, and what stands behind the header, are never looked at.
"""
