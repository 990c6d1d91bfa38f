"""Releasing: what happens to an image after it was built, and everything that proves it.

Nothing here changes an image. A release is pushed once under its immutable tag; what is known of
it (who built it from what, the smoke verdicts, every move of a tag) is written beside it.
"""
