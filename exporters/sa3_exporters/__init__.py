"""A checkpoint becomes a verified bundle: one file per target."""

NAME = "sa3-export"  # the command
INTERRUPTED = "interrupted; nothing was published"
