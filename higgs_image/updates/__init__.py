"""Newer pins: ask upstream, the registry, the package index and the hub."""
