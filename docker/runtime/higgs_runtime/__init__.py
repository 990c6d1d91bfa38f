"""The image's entrypoint: turns a container into a running speech server.

`python3 -m higgs_runtime` reads settings, checks the GPU, downloads the pinned weights, starts the
server, answers /ping while it loads, and drains it on SIGTERM. Standard library only, and little of
it: the server process must start within 150 ms, so slow modules such as `logging`, `argparse` and
`huggingface_hub` are imported only where they are needed.
"""
