"""Newer pins: from the fork's repository, the registry, the package index and the hub."""
