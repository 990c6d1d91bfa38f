"""The benchmark: load a server with speech, and say how many people can listen at once."""
