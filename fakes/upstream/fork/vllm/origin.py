"""The fork's own version of a file that the wheel has too."""

ORIGIN = "fork"
