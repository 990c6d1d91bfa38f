"""Cut CUDA libraries to the device code that a driver would choose on the supported GPUs.

Runs in the image build with the base image's own Python: standard library only.
"""
