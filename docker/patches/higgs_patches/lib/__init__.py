"""Helpers of the patches: audio, voices, requests, sampling, errors."""
