"""The machine itself: doctor, engine, demo."""

from __future__ import annotations
