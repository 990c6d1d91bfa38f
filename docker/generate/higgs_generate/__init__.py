"""POST /generate: a small service in front of the speech server.

It runs in the image (HIGGS_GENERATE_PORT) or anywhere else before a server (`python3 -m
higgs_generate --server URL`). It takes texts of any length, splits long ones into pieces, and joins
their sound to one recording; it has batches, a bounded queue, and a page to hear it.
"""
