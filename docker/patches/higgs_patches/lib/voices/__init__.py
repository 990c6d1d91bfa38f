"""Voices: what they are, their recordings, and the folders that they are read from."""
