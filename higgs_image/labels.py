"""Labels of the image: what it was made from, readable without running it."""

LABEL = "org.higgs-image."
"""Prefix of the project's own labels; the others are OCI's standard ones."""
