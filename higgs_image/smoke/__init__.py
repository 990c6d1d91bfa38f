"""The smoke test: start an image as a user would, ask it for speech, and say what was seen."""
