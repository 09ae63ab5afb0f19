"""What is special about each architecture, one short file each.

This room imports layers_ms, and distributed_ms to say which share of a model is built.
"""
