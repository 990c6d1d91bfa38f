"""Where compiled GPU kernels are stored: beside the weights, so that they outlive the container.

Compiling takes 40 to 70 s, and 100 s more where the driver compiles, too. The kernels depend on the
code of the image, so each tag has a folder.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from higgs_runtime import cache, container, log
from higgs_runtime.errors import SettingError
from higgs_runtime.settings import Settings

DRIVER = "CUDA_CACHE_PATH"
"""Variable with the folder of what the driver compiles from PTX."""
DRIVER_BYTES = 1 << 30
"""Room in that folder, as newer drivers have it by default."""
DISABLE = "VLLM_DISABLE_COMPILE_CACHE"
"""Variable that turns off vLLM's cache of compiled graphs."""
FOLDERS = {
    "VLLM_CACHE_ROOT": "vllm",
    "TRITON_CACHE_DIR": "triton",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    DRIVER: "cuda",
}
"""Variables that name a cache of compiled code, with its folder."""


def variables(
    settings: Settings, environment: Mapping[str, str], tag: str, home: str
) -> dict[str, str]:
    """Return the variables that locate the caches; those that are set keep their value.

    Args:
        settings: the settings.
        environment: the container's variables.
        tag: the image's immutable tag.
        home: a writable folder, used if nothing can be stored beside the weights.
    """
    hf_home = cache.hub_home(settings.hf_home, environment)
    beside = hf_home if settings.hf_home else hf_home.parent  # a volume may be mounted at HF_HOME
    if not _is_usable(beside):
        beside = Path(home, ".cache")
    folder = beside / "higgs-image" / tag
    return {
        name: environment.get(name, "").strip() or str(folder / part)
        for name, part in FOLDERS.items()
    }


def _is_usable(folder: Path) -> bool:
    while not folder.exists():
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK) and container.is_executable(folder)


def require_enabled(settings: Settings, environment: Mapping[str, str]) -> None:
    """Refuse to turn off vLLM's cache, without which its engine ends when it compiles.

    Raises:
        SettingError: it is turned off, and the flags do not say how to compile.
    """
    value = environment.get(DISABLE, "").strip()
    chosen = {"--enforce-eager", "--compilation-config"} & settings.given.keys()
    if value in ("", "0") or chosen or any(x.startswith("-O") for x in settings.arguments):
        return
    raise SettingError(
        f"{DISABLE} is {value!r}, and the engine cannot compile the model without that cache",
        "unset it; --enforce-eager starts without compilation",
    )


def require_executable(folders: Mapping[str, str]) -> None:
    """Refuse folders from which compiled code cannot be loaded; the driver just reads its own.

    Raises:
        SettingError: one is mounted with noexec.
    """
    for name, folder in folders.items():
        if name != DRIVER:
            container.require_executable(Path(folder))


def prepare(folders: Mapping[str, str]) -> None:
    """Make the driver's folder, which it may not do, and discard what would end the start."""
    with suppress(OSError):  # without it the driver compiles at each start
        Path(folders[DRIVER]).mkdir(parents=True, exist_ok=True)
    discard_damaged(Path(folders["VLLM_CACHE_ROOT"]))


def discard_damaged(root: Path) -> None:
    """Remove compiled graphs whose index is damaged, as after a crash: the server would not start.

    Args:
        root: value of VLLM_CACHE_ROOT.
    """
    for index in root.glob("torch_compile_cache/*/rank_*/vllm_compile_cache.py"):
        import ast

        try:
            damaged = not isinstance(ast.literal_eval(index.read_text()), dict)
        except (ValueError, SyntaxError, OSError):
            damaged = True
        if damaged:
            log.warning(f"{index} is damaged: compiling again")
            shutil.rmtree(index.parent, ignore_errors=True)
