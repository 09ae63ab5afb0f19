"""Checkpoint files -> parameters; knows no model.

Layers use `slices` to say what fills a parameter, the executor calls `loader`. Imports nothing of the other rooms;
torch is used in `checkpoint` only.
"""
