"""What the image changes in the speech server: one module per patch, and a library they share."""
