"""Stage `render`: the Dockerfile and a minimal build context, always the same from one lock."""

from __future__ import annotations

import re
import stat
import traceback
from collections.abc import Iterable
from pathlib import PurePosixPath

from higgs_image import lockfile
from higgs_image.build import layers, metadata
from higgs_image.build.context import Files
from higgs_image.build.layers import Layers
from higgs_image.build.overrides import Overrides
from higgs_image.build.patches.apply import Patched
from higgs_image.build.source import Source
from higgs_image.errors import BuildError, SourceError
from higgs_image.files import files_below
from higgs_image.lockfile import Lock
from higgs_image.workspace import Workspace


def compute(
    workspace: Workspace, lock: Lock, source: Source, patched: Patched, overrides: Overrides
) -> Files:
    """Return every file of the context. Reads only; the same inputs give the same bytes."""
    plan = layers.load(workspace.layers_file, lock.variant)
    gpus = overrides.gpus_of(plan)
    locked = lockfile.requirements(lock.file(lock.python.requirements).read_text())
    spread = layers.distribute(locked, plan.layer)
    files: Files = {}

    def text(path: str, content: str) -> None:
        files[path] = (content.encode(), 0o644)

    def lines(path: str, entries: Iterable[str]) -> None:
        if content := "".join(f"{entry}\n" for entry in entries):
            text(path, content)

    def package_layer(
        layer: layers.Layer | layers.WheelLayer, name: str, entries: list[str]
    ) -> None:
        lines(f"layers/{name}/requirements.txt", entries)
        for key in ("remove", "stub", "strip"):
            lines(f"layers/{name}/{key}.txt", getattr(layer, key))
        lines(f"layers/{name}/gpus.txt", gpus)

    used = [layer for layer in plan.layer if layer.name in spread]
    for layer in used:
        package_layer(layer, layer.name, spread[layer.name])
        links = (f"{name} {pattern}" for name, pattern in layer.links.items())
        lines(f"layers/{layer.name}/links.txt", links)
    package_layer(plan.wheel, layers.WHEEL, [lockfile.wheel_entry(lock.wheel)])
    if lock.kernels:
        folder_of_kernels = f"layers/{layers.WHEEL}/kernels"
        lines(f"{folder_of_kernels}/requirements.txt", [lockfile.wheel_entry(lock.kernels)])
        lines(f"{folder_of_kernels}/files.txt", plan.kernels)
    for wheel in lock.wheels:
        if workspace.wheels and (workspace.wheels / wheel.filename).exists():
            data = (workspace.wheels / wheel.filename).read_bytes()
            files[f"layers/{layers.WHEEL}/wheels/{wheel.filename}"] = (data, 0o644)
    site = f"opt/venv/lib/python{lock.python.version}/site-packages"
    for package, folder in (("vllm", source.fork), ("boson_multimodal", source.submodule)):
        paths = files_below(folder / package)
        if not paths:
            raise SourceError(
                f"{folder} has no {package}/: the image would lack it",
                "pin a commit that has it in versions.lock",
            )
        for path in paths:
            if path.is_symlink():
                raise SourceError(
                    f"{path} is a symbolic link, which the overlay does not carry over",
                    "pin a commit without it, or support it in higgs_image/build/render.py",
                )
            kind = "code" if path.suffix == ".py" else "assets"
            mode = 0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644
            name = path.relative_to(folder).as_posix()
            if _from_kernels(name, lock, plan, patched):
                continue
            data = patched.files[name] if name in patched.files else path.read_bytes()
            files[f"layers/{kind}/{site}/{name}"] = (data, mode)
    for name, data in patched.files.items():
        files.setdefault(f"layers/code/{site}/{name}", (data, 0o644))
    for package in ("runtime/higgs_runtime", "generate/higgs_generate"):
        folder = workspace.root / "docker" / package
        for path in lockfile.recipe_files(folder):
            name = f"layers/code/{site}/{path.relative_to(folder.parent).as_posix()}"
            files[name] = (path.read_bytes(), 0o644)
    text(
        "layers/code/usr/share/higgs-image/image.json",
        metadata.image_json(lock, plan.cuda, patched, overrides, gpus),
    )
    for name in ("LICENSE", "NOTICE"):
        text(f"layers/code/usr/share/doc/higgs-image/{name}", (workspace.root / name).read_text())
    build_steps = workspace.root / "docker" / "build"
    for path in lockfile.recipe_files(build_steps):
        files[f"build/{path.relative_to(build_steps).as_posix()}"] = (path.read_bytes(), 0o644)
    if lock.debian:
        lines("build/snapshot.list", lock.debian.snapshot)
    text("build/constraints.txt", lock.file(lock.python.build).read_text())
    text("installer/requirements.txt", lock.file(lock.python.installer).read_text())
    overlays = [x for x in ("assets", "code") if any(p.startswith(f"layers/{x}/") for p in files)]
    text("Dockerfile", _dockerfile(workspace, lock, gpus, used, overlays, patched, overrides))
    return dict(sorted(files.items()))


def _from_kernels(name: str, lock: Lock, plan: Layers, patched: Patched) -> bool:
    """Tell whether a file of the fork gives way to the one of the kernels' wheel.

    Raises:
        SourceError: the fork or a patch may have changed it.
    """
    path = PurePosixPath(name)
    if not any(x.match(pattern) for x in (path, *path.parents) for pattern in plan.kernels):
        return False
    unchanged = lock.kernels.unchanged if lock.kernels else {}
    if name in patched.files or not any(x.as_posix() in unchanged for x in (path, *path.parents)):
        raise SourceError(
            f"{name} of the fork would be replaced by the one of the kernels of {lock.variant}",
            "prove that the fork leaves it as it is, in variant.kernels.unchanged of "
            "versions.lock; it cannot be patched",
        )
    return True


def _dockerfile(
    workspace: Workspace,
    lock: Lock,
    gpus: list[str],
    used: list[layers.Layer],
    overlays: list[str],
    patched: Patched,
    overrides: Overrides,
) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(workspace.root / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 (a Dockerfile is not HTML)
    )
    environment.filters["quoted"] = _quoted
    kernels = f"the kernels of {lock.kernels.requirement}" if lock.kernels else "its kernels"
    reason = f"The wheel of {lock.wheel.requirement}, with {kernels}."
    wheel = {"name": layers.WHEEL, "reason": reason}
    try:
        return environment.get_template("Dockerfile.j2").render(
            base=overrides.base_image or lock.base.reference,
            python=lock.python.version,
            layers=[{"name": x.name, "reason": x.reason} for x in used] + [wheel],
            overlays=overlays,
            labels=metadata.labels(lock, patched, overrides, gpus),
        )
    except jinja2.TemplateError as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename.endswith(".j2")]
        line = getattr(error, "lineno", None) or (lines[-1] if lines else 1)
        raise BuildError(
            f"{workspace.root / 'templates' / 'Dockerfile.j2'}:{line}: "
            f"{type(error).__name__}: {error}",
            "correct the template; what it may use is passed in by higgs_image/build/render.py",
        ) from None


def _quoted(value: str) -> str:
    """Quote a value as a Dockerfile has it: it expands variables, and knows no other escapes."""
    return '"' + re.sub(r'(["\\$])', r"\\\1", value) + '"'
