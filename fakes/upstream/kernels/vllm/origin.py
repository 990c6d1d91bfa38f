"""A file of the later release that the image has no use for."""

ORIGIN = "kernels"
