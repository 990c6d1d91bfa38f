"""Entry point of Invoke: everything lives in higgs_image.tasks."""

from higgs_image.tasks import namespace

__all__ = ["namespace"]
