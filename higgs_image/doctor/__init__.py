"""Is everything there that a build and a release need? What to do if not."""
