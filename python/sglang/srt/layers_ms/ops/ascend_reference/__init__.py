"""The Ascend table on a CPU, for tests: numpy's kernels."""
