"""What the patches share: audio, voices, prompts, and the fields of requests."""
