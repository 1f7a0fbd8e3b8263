"""Prompt to finished audio, in numpy. No torch, no HTTP."""
