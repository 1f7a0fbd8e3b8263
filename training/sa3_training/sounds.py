"""Every kind of sound the corpus has. To add one, write it in a module here and list it in that module's KINDS."""

from sa3_training import drums, effects, music
from sa3_training.sketch import Kind

KINDS: tuple[Kind, ...] = (*music.KINDS, *drums.KINDS, *effects.KINDS)
