"""A checkpoint becomes a verified bundle: one file per target."""
