"""What runs a graph: the engine protocol, model descriptions, backends and their selection. No torch."""
