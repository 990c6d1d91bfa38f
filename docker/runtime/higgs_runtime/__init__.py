"""The image's own start code: it makes a container of the image into a running speech server.

`python3 -m higgs_runtime` is the image's entrypoint. It reads settings, looks at the GPU, fetches
the pinned weights, starts the server, answers /ping while that loads, and ends it well on SIGTERM.
Standard library only, and little of it: before the server's first line it may take 150 ms, so that
modules such as `logging`, `argparse` and `huggingface_hub` are imported where they are needed or
not at all.
"""
