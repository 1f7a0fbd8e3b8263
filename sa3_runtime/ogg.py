"""Makes libsndfile's opus files end where the sound does.

Its encoder leaves out what the codec holds back, so unless a file ends with a packet, stale samples sound at its end.
The remedy is to encode silence up to the end of a packet, and then to tell the last page to stop before it.
"""

import struct

import numpy as np

LOOKAHEAD_SECONDS = 312 / 48000
PACKETS_PER_SECOND = 50
CLOCK = 48000  # opus counts in this, whatever the rate


def padded(frames: np.ndarray, rate: int) -> np.ndarray:
    packet, lookahead = rate // PACKETS_PER_SECOND, round(LOOKAHEAD_SECONDS * rate)
    return np.pad(frames, ((0, -(len(frames) + lookahead) % packet), (0, 0)))


def shortened(data: bytes, frames: int, rate: int) -> bytes:
    """The same stream, ending `frames` earlier; they must lie in its last packet."""
    last = at = 0
    while at < len(data):
        segments = data[at + 26]
        last, at = at, at + 27 + segments + sum(data[at + 27 : at + 27 + segments])
    page = bytearray(data[last:])
    end = struct.unpack_from("<q", page, 6)[0]
    struct.pack_into("<q", page, 6, end - frames * CLOCK // rate)
    struct.pack_into("<I", page, 22, 0)
    struct.pack_into("<I", page, 22, _checksum(page))
    return data[:last] + bytes(page)


def _checksum(page: bytearray) -> int:
    value = 0
    for byte in page:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value >> 31 else 0)) & 0xFFFFFFFF
    return value
