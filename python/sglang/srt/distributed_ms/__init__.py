"""Who computes which part of the model, and how the parts talk. Imports nothing of the other rooms."""
