"""From the pinned source to an image: source, patches, render, build, budget."""
