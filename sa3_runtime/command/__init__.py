"""What the commands do, between their flags and the pipeline. Nothing here prints: `cli.py` does."""
