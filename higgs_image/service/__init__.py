"""The image running on this machine: start, status, logs, stop."""
