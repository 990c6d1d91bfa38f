"""Rented GPUs: the template of the image, and pods that prove that it speaks there.

`description` reads deploy/template.toml, which does not depend on a provider; `runpod` is the only
part that knows RunPod's API, `vast` the only one that knows Vast.ai's.
"""
