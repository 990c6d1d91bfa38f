"""One module per patch: what it replaces in the server stands in its PATCH."""
