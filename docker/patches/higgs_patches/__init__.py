"""What the image changes in the speech server: one module per patch, and their shared parts."""
