"""Calls the kernels; the fork leaves it as it is, and a variant's kernels bring their own."""

KERNELS = "0.8.3"
