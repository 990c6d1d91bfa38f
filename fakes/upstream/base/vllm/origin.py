"""The fork changes this file, so that one can see whose is installed."""

ORIGIN = "wheel"
