"""The benchmark: load a server with the speech route, and say how many people can listen at once."""
