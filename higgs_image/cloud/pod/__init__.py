"""Pods: chosen by catalogue, followed until they are ready, tested, and always given back."""
