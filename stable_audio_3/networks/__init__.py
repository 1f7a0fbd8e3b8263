"""The networks, as the checkpoints name them. They know nothing of pipelines, engines or files."""
