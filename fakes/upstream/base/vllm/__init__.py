"""Stands for the package vllm of the release that the fork is based on; also in the wheel."""

__version__ = "0.8.3"
