"""Runs the forward passes of one process: model, step, graphs, caches, sampling."""
