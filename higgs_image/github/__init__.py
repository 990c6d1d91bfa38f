"""GitHub: its API, pull requests, and hosted runners."""
