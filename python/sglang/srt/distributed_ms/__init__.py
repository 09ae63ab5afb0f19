"""Which part of the model each rank and each pipeline stage computes. Imports nothing of the other packages."""
