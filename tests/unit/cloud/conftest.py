"""What the tests of rented GPUs share: a fake RunPod for each."""

from tests.support.runpod.fixtures import account, runpod

__all__ = ["account", "runpod"]
