"""The header of a message: the Received line that is added, and the header that came in, checked and completed.

    received      the Received line
    editor        loops, malformed and oversized headers; Bcc, Date, Message-ID
    address    the lists of addresses in To, Cc and From

Knows nothing of sessions; MIME, and what stands behind the header, are never looked at.
"""
