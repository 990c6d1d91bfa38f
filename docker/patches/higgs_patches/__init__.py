"""Changes to the speech server: `patches` has one module per patch, `lib` what they share."""
