"""The Ascend table: MindSpore's fused kernels."""
