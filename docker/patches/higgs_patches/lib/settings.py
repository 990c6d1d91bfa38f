"""Settings that the patches read: variables of the container, as data for the documentation."""

from __future__ import annotations

from typing import NamedTuple


class PatchSetting(NamedTuple):
    """One row of the table.

    Attributes:
        name: the variable.
        flag: the server's flag that wins over it; empty if there is none.
        default: the default, for a person.
        allowed: allowed values, for a person.
        meaning: what it does, for a person.
        group: heading in the documentation.
    """

    name: str
    flag: str
    default: str
    allowed: str
    meaning: str
    group: str


_REQUESTS = "Requests"
_SAMPLING = "Sampling"

TABLE = (
    PatchSetting("HIGGS_MAX_INPUT_CHARACTERS", "", "4096", "1 or more",
        "longest `input` and `instructions` of a speech request", _REQUESTS),
    PatchSetting("HIGGS_MAX_TOKENS_FACTOR", "", "2.5", "0.1 or more",
        "default of `max_tokens`: this multiple of the length at a normal pace, plus 4 s",
        _REQUESTS),
    PatchSetting("HIGGS_MAX_REFERENCE_SECONDS", "", "60", "seconds",
        "longest reference audio of a chat request", _REQUESTS),
    PatchSetting("HIGGS_ALLOWED_MEDIA_HOSTS", "", "none", "hosts, separated by commas",
        "hosts from which reference audio may be fetched", _REQUESTS),
    PatchSetting("HIGGS_RAS_WIN_LEN", "", "7", "frames, 25 a second; 0: off",
        "repetition-aware sampling: length of the window", _SAMPLING),
    PatchSetting("HIGGS_RAS_WIN_MAX_NUM_REPEAT", "", "2", "1 or more",
        "how often a code may occur in that window, for each codebook", _SAMPLING),
    PatchSetting("HIGGS_SEMANTIC_MODEL_PATH", "--semantic-model-path", "in the tokenizer", "folder",
        "the audio tokenizer's HuBERT", "Weights"),
)  # fmt: skip
