"""The machine that builds: Docker, a base image, a local registry."""
