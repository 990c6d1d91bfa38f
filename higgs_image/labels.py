"""Stage `render`: the Dockerfile and a minimal build context, byte for byte the same from one lock.

The context is compared with what it should be, not with a time stamp: a file that was changed by
hand is noticed, and an equal context is left alone.
"""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)


LABEL = "org.higgs-image."
"""Prefix of the image's own labels; the others are OCI's standard ones."""
