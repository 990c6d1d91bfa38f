"""Repetition-aware sampling: its settings, and the window of a request's last codes.

Higgs Audio v2 sometimes falls into endless silence or a held sound. The model's reference engine
has repetition-aware sampling against that: a sampled code that stands ``repeats`` times or more
among its codebook's last ``window`` codes is sampled again from the model's plain distribution,
without temperature, top-k and top-p.

``HIGGS_RAS_WIN_LEN`` (default 7, 0 turns it off) and ``HIGGS_RAS_WIN_MAX_NUM_REPEAT`` (default 2)
set it for the server; ``extra_args["ras_win_len"]`` and ``["ras_win_max_num_repeat"]`` of its
SamplingParams for a request. The names are the reference engine's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from higgs_patches.patch_settings import RAS_REPEATS, RAS_WINDOW

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WINDOW, REPEATS = "ras_win_len", "ras_win_max_num_repeat"

LONGEST = 250
"""Frames of the longest window: ten seconds. It bounds the work of every step."""


@dataclass(frozen=True)
class RepetitionLimit:
    """A codebook may hold the same code fewer than `repeats` times in its last `window` frames."""

    window: int = 7
    repeats: int = 2

    def __post_init__(self) -> None:
        """Refuse what makes no sense: ValueError that names the setting and what it may be."""
        _require(WINDOW, self.window, 0)
        _require(REPEATS, self.repeats, 1)


def _require(name: str, value: Any, least: int) -> None:
    if type(value) is not int or not least <= value <= LONGEST:
        raise ValueError(f"{name} is {value!r}; expected a whole number from {least} to {LONGEST}")


SERVER = RepetitionLimit(RAS_WINDOW.read(), RAS_REPEATS.read())
"""The server's limit; a bad value stops it at its start."""


def of_request(
    extra_args: Mapping[str, Any] | None, server: RepetitionLimit = SERVER
) -> RepetitionLimit | None:
    """The limit of a request; None if it has none (a window of 0).

    Args:
        extra_args: of the request's SamplingParams.
        server: what holds where the request says nothing, or None.

    Raises:
        ValueError: names the field and what it may be.
    """
    given = extra_args or {}
    window, repeats = given.get(WINDOW), given.get(REPEATS)
    limit = RepetitionLimit(
        server.window if window is None else window, server.repeats if repeats is None else repeats
    )
    return limit if limit.window else None


class RepetitionWindow:
    """The last frames that a request spoke, in no order: only their counts matter."""

    def __init__(
        self, limit: RepetitionLimit, codebooks: int, before: Sequence[Sequence[int]] = ()
    ) -> None:
        """Start with frames that stand in the prompt as the model's own speech, last one last."""
        import numpy as np

        self.repeats = limit.repeats
        self.codes: NDArray[np.int32] = np.full((limit.window, codebooks), -1, dtype=np.int32)
        """(window, codebooks): -1 where there is no frame yet, which equals no code."""
        self._written = 0
        self._followed = 0
        for frame in before[-limit.window :]:
            self._write(frame)

    def follow(self, frames: Sequence[Sequence[int]]) -> None:
        """Take the frames that came since the last call; `frames` are all that were spoken."""
        for index in range(max(self._followed, len(frames) - len(self.codes)), len(frames)):
            self._write(frames[index])
        self._followed = len(frames)

    def _write(self, frame: Sequence[int]) -> None:
        self.codes[self._written % len(self.codes)] = frame
        self._written += 1


def stacked(
    windows: Iterable[RepetitionWindow | None], codebooks: int
) -> tuple[NDArray[np.int32], list[int]]:
    """Windows of a batch as one array (requests, frames, codebooks), and each one's limit.

    A request without a window gets one that equals no code, so that nothing can reach its limit.
    """
    import numpy as np

    rows = list(windows)
    longest = max((len(row.codes) for row in rows if row), default=0)
    codes = np.full((len(rows), longest, codebooks), -1, dtype=np.int32)
    for index, row in enumerate(rows):
        if row:
            codes[index, : len(row.codes)] = row.codes
    return codes, [row.repeats if row else 1 for row in rows]
