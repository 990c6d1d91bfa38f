"""Patches: read their headers, check them against a source, apply them."""
