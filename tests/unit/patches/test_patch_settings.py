"""Settings that the patches read from the environment."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from higgs_patches import patch_settings
from higgs_patches.patch_settings import SETTINGS

PACKAGE = Path(patch_settings.__file__).parent


def test_defaults_are_values_that_are_allowed() -> None:
    for setting in SETTINGS:
        assert setting.read({}) == setting.read({setting.variable: "  "})
        assert setting.read({}) == setting.read({setting.variable: setting.default})


def test_repetition_aware_sampling_has_the_reference_engines_values() -> None:
    assert (patch_settings.RAS_WINDOW.read({}), patch_settings.RAS_REPEATS.read({})) == (7, 2)


@pytest.mark.parametrize(
    ("setting", "text", "value"),
    [
        (patch_settings.RAS_WINDOW, "12", 12),
        (patch_settings.RAS_REPEATS, "3", 3),
        (patch_settings.MAX_TOKENS_FACTOR, " 3 ", 3.0),
        (patch_settings.MAX_INPUT_CHARACTERS, "10000", 10_000),
        (patch_settings.ALLOWED_MEDIA_HOSTS, " A.b , c.d.,,", {"a.b", "c.d"}),
    ],
)
def test_the_environment_is_read(setting: Any, text: str, value: Any) -> None:
    assert setting.read({setting.variable: text}) == value


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        *((patch_settings.RAS_WINDOW, text) for text in ("seven", "-1", "7.0", "251", "9" * 5000)),
        (patch_settings.RAS_REPEATS, "0"),
        *((patch_settings.MAX_TOKENS_FACTOR, text) for text in ("x", "0.05", "-1", "inf", "nan")),
        (patch_settings.MAX_INPUT_CHARACTERS, "0"),
    ],
)
def test_a_bad_value_is_refused_by_name(setting: Any, text: str) -> None:
    expected = re.escape(f"{setting.variable} is {text!r}; expected {setting.values}")
    with pytest.raises(ValueError, match=expected):
        setting.read({setting.variable: text})


def test_every_variable_that_a_patch_reads_is_declared() -> None:
    """A variable that is not in the table is not in the documentation, either."""
    entrypoints = {"HIGGS_KEEP_ALIVE_SECONDS"}  # declared in its own table
    internal = {"HIGGS_TOKENIZER_PROCESS", "HIGGS_AUDIO_TOKENIZER"}  # the second: the fork's
    known = {setting.variable for setting in SETTINGS} | entrypoints | internal
    for path in PACKAGE.rglob("*.py"):
        found = set(re.findall(r"\bHIGGS_[A-Z_]+[A-Z]\b", path.read_text()))
        assert found <= known, path


def test_the_table_is_read_without_the_server() -> None:
    code = (
        "import sys; sys.modules |= dict.fromkeys(['vllm', 'torch', 'pydantic', 'numpy']);"
        "from higgs_patches.patch_settings import SETTINGS; print(len(SETTINGS))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == len(SETTINGS)
