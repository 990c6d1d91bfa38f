"""Calls the kernels of a later release."""

KERNELS = "0.10.2"
