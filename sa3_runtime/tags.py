"""Tags inside sound files, where libsndfile's own come out wrong.

libsndfile writes the tags of flac, ogg and opus. It does not write what it can read back into wav (long texts break the
file) nor mp3 (Latin-1 labelled as such, whatever the text), so those two blocks are made here.
"""

import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from sa3_engines.errors import InvalidRequest

# What every format holds, with its RIFF INFO and its ID3 name.
NAMES = {
    "title": ("INAM", "TIT2"),
    "artist": ("IART", "TPE1"),
    "album": ("IPRD", "TALB"),
    "comment": ("ICMT", "COMM"),
    "copyright": ("ICOP", "TCOP"),
    "software": ("ISFT", "TSSE"),
    "date": ("ICRD", "TDRC"),
    "genre": ("IGNR", "TCON"),
    "tracknumber": ("ITRK", "TRCK"),
}
LIMIT = 32_000  # bytes: opus files with tags of more than about 50,000 cannot be opened again


def checked(metadata: Mapping[str, str] | None) -> dict[str, str]:
    """The tags that say something, as text that C strings and UTF-8 can hold."""
    if unknown := set(metadata or ()) - set(NAMES):
        raise InvalidRequest(f"unknown metadata {', '.join(sorted(unknown))}; choose from {', '.join(NAMES)}")
    for name, text in dict[str, Any](metadata or {}).items():
        if not isinstance(text, str):
            raise InvalidRequest(f"metadata {name} is {text!r}; a text was expected")
    tags = {
        name: text.replace("\0", "").encode(errors="replace").decode()
        for name, text in (metadata or {}).items()
        if text.replace("\0", "")
    }
    size = sum(len(text.encode()) for text in tags.values())
    if size > LIMIT:
        raise InvalidRequest(f"metadata takes {size} bytes and a sound file holds {LIMIT}; shorten it or use a sidecar")
    return tags


def riff_info(tags: Mapping[str, str]) -> bytes:
    """A LIST INFO chunk, or nothing when there are no tags."""
    body = b"".join(riff_chunk(NAMES[name][0], text.encode() + b"\0") for name, text in tags.items())
    return riff_chunk("LIST", b"INFO" + body) if body else b""


def riff_chunk(name: str, body: bytes) -> bytes:
    return name.encode() + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def read_riff_info(path: Path) -> dict[str, str]:
    """The INFO tags of a wav file. libsndfile drops every text over 2 kB, and those after it."""
    names = {riff.encode(): name for name, (riff, _) in NAMES.items()}
    at = 12
    with path.open("rb") as file:
        while len(head := _at(file, at, 8)) == 8:
            name, size = struct.unpack("<4sI", head)
            if name == b"LIST" and file.read(4) == b"INFO":
                return {
                    names[chunk]: text.rstrip(b"\0").decode(errors="replace")
                    for chunk, text in _chunks(file.read(min(size, 1 << 20)))
                    if chunk in names
                }
            at += 8 + size + size % 2
    return {}


def _at(file: BinaryIO, position: int, size: int) -> bytes:
    file.seek(position)
    return file.read(size)


def _chunks(body: bytes) -> list[tuple[bytes, bytes]]:
    found: list[tuple[bytes, bytes]] = []
    while len(body) >= 8:
        size = struct.unpack("<I", body[4:8])[0]
        found.append((body[:4], body[8 : 8 + size]))
        body = body[8 + size + size % 2 :]
    return found


def id3(tags: Mapping[str, str]) -> bytes:
    """An ID3v2.4 block to put before an mp3 stream, or nothing when there are no tags."""
    frames = b""
    for name, text in tags.items():
        # 3 = UTF-8; a comment also names its language and describes itself.
        body = b"\3" + (b"und\0" if name == "comment" else b"") + text.encode()
        frames += NAMES[name][1].encode() + _seven_bit(len(body)) + b"\0\0" + body
    return b"ID3\4\0\0" + _seven_bit(len(frames)) + frames if frames else b""


def _seven_bit(size: int) -> bytes:
    return bytes(size >> shift & 127 for shift in (21, 14, 7, 0))


def without_library(software: str) -> str:
    """libsndfile signs the software tag it is given."""
    return re.sub(r" \(libsndfile-[\d.]+\)$", "", software)
