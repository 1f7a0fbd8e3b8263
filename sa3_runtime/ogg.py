"""Where ogg files end; makes libsndfile's opus files end where the sound does.

Its encoder leaves out what the codec holds back, so unless a file ends with a packet, stale samples sound at its end.
The remedy is to encode silence up to the end of a packet, and then to tell the last page to stop before it.
"""

import os
import struct
from pathlib import Path

import numpy as np

LOOKAHEAD_SECONDS = 312 / 48000
PACKETS_PER_SECOND = 50
CLOCK = 48000  # opus counts in this, whatever the rate
_HEADER = 27  # bytes, of which the last counts the segments
_PAGE = _HEADER + 255 + 255 * 255  # the largest there can be


def padded(frames: np.ndarray, rate: int) -> np.ndarray:
    packet, lookahead = rate // PACKETS_PER_SECOND, round(LOOKAHEAD_SECONDS * rate)
    return np.pad(frames, ((0, -(len(frames) + lookahead) % packet), (0, 0)))


def shortened(data: bytes, frames: int, rate: int) -> bytes:
    """The same stream, ending `frames` earlier; they must lie in its last packet."""
    last = at = 0
    while at < len(data):
        last, at = at, _after(data, at)
    page = bytearray(data[last:])
    end = struct.unpack_from("<q", page, 6)[0]
    struct.pack_into("<q", page, 6, end - frames * CLOCK // rate)
    struct.pack_into("<I", page, 22, 0)
    struct.pack_into("<I", page, 22, _checksum(page))
    return data[:last] + bytes(page)


def ends(path: str | os.PathLike[str]) -> bool:
    """Whether the last page of the file says that it is the last, and is whole."""
    with Path(path).open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _PAGE))
        tail = file.read()
    last = tail.rfind(b"OggS")
    whole = 0 <= last < len(tail) - _HEADER and _after(tail, last) <= len(tail)
    return whole and bool(tail[last + 5] & 4)


def _after(data: bytes, page: int) -> int:
    """Where the page after this one begins."""
    body = page + _HEADER
    segments = data[body - 1]
    return body + segments + sum(data[body : body + segments])


def _checksum(page: bytearray) -> int:
    value = 0
    for byte in page:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value >> 31 else 0)) & 0xFFFFFFFF
    return value
