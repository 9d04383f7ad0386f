"""The slices as they are handed over: encoded, and decoded again as their processes will.

Words that do not fit have been reported before, with their position (build/diagnostics.py); this makes sure of it
for all fields of a slice, and that no slice is larger than the imsg that carries it to its process.
"""

import msgspec

from smtpd.config.errors import ConfigError, ConfigErrors
from smtpd.imsg import TABLE, Configure
from smtpd.slice import Slices

# The rest of that imsg is two paths and a few numbers.
SLICE_MAX = TABLE.by_class[Configure].limit - 16 * 1024  # bytes
PARENT = "parent"  # the role whose slice is part of the one-shot process's answer, which has room for all
PARENT_MAX = 4 * SLICE_MAX


def encode_slices(path: str, slices: Slices) -> dict[str, bytes]:
    """The slices, encoded, by role.  Raises ConfigErrors about the file `path`."""
    fields = msgspec.structs.fields(Slices)
    return {field.name: _encoded(path, field.name, getattr(slices, field.name), field.type) for field in fields}


def _encoded(path: str, role: str, part: object, kind: type) -> bytes:
    try:
        encoded = msgspec.msgpack.encode(part)
        msgspec.msgpack.decode(encoded, type=kind)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        raise _refused(path, f"invalid configuration of {role}: {error}") from None
    most = PARENT_MAX if role == PARENT else SLICE_MAX
    if len(encoded) > most:
        text = f"the configuration of {role} has {len(encoded)} bytes, expected at most {most}: move lists into files"
        raise _refused(path, text)
    return encoded


def _refused(path: str, text: str) -> ConfigErrors:
    return ConfigErrors([ConfigError(path, 0, 0, text)])
