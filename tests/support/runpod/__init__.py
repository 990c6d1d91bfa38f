"""A server that stands for RunPod in tests: its API from the contract, pods, and their proxy."""
