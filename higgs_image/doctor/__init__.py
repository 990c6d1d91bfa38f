"""Whether this machine has what a build and a release need."""
