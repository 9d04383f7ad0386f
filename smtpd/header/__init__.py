"""The header of a message: the trace line that is added, and the check of what came in.

    received   the Received line
    block      loops, malformed and oversized header blocks

Knows nothing of sessions; MIME, and what stands behind the header, are never looked at.
"""
