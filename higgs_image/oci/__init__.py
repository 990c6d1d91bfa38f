"""Images as bytes: layouts, references, registries, and the Docker engine that runs them."""
