"""Prints the table of README.md."""

from tests.broken import table

print(table(), end="")
