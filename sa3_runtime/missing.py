"""What a sound file promises and does not hold: a download that broke off, a disk that was full.

libsndfile reads such files as far as they go and says so in its log at most.
"""

import re

import soundfile as sf

from sa3_runtime import ogg

_SIZES = re.compile(r"^\s*(?:data|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
_UNKNOWN = 0x7FFF0000  # bytes: whoever writes into a pipe cannot know the size, and promises about as much as there is
_TOLERANCE = 0.01  # of what was promised: some mp3 files count their own padding


def cut_short(file: sf.SoundFile, frames: int) -> str | None:
    """How much of the file is missing, which was read to its end: `frames` of them came."""
    promised = float(file.frames)
    if (sizes := _SIZES.search(file.extra_info)) and int(sizes[1]) < _UNKNOWN and int(sizes[2]):
        promised = frames * int(sizes[1]) / int(sizes[2])
    if promised > frames * (1 + _TOLERANCE):
        return f"is cut short: it says {promised / file.samplerate:.1f} s and holds {frames / file.samplerate:.1f} s"
    if file.format == "OGG" and not ogg.ends(str(file.name)):
        return "is cut short: the page that ends an ogg file is missing"
    return None
