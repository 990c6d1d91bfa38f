"""The whole job on a small fake of the fork."""
