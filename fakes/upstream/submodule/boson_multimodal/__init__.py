"""Stands for the submodule's package, which holds the audio tokenizer."""
