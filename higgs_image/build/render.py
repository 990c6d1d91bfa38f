"""Stage `render`: the Dockerfile and a minimal build context, byte for byte the same from one lock.

The context is compared with what it should be, not with a time stamp: a file that was changed by
hand is noticed, and an equal context is left alone.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
import shutil
import stat
import traceback
from dataclasses import dataclass, field
from pathlib import Path

from higgs_image import lockfile
from higgs_image.build import layers
from higgs_image.build.overrides import Overrides
from higgs_image.build.patches.apply import Patched
from higgs_image.build.source import Source
from higgs_image.errors import BuildError, DriftError, SourceError
from higgs_image.files import files_below, replace_folder, sha256_bytes
from higgs_image.labels import LABEL
from higgs_image.lockfile import Lock
from higgs_image.workspace import Workspace

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Context:
    """A rendered build context.

    Attributes:
        path: the folder.
        sha256: hash over names, modes and contents of everything in it.
        changed: files that differed from the previous context.
    """

    path: Path
    sha256: str
    changed: list[str] = field(default_factory=list)


Files = dict[str, tuple[bytes, int]]
"""Path in the context to content and mode."""


def compute(
    workspace: Workspace, lock: Lock, source: Source, patched: Patched, overrides: Overrides
) -> Files:
    """Return every file of the context. Reads only; the same inputs give the same bytes."""
    plan = layers.load(workspace.layers_file)
    locked = lockfile.requirements(lock.file(lock.python.requirements).read_text())
    spread = layers.distribute(locked, plan.layer)
    files: Files = {}

    def text(path: str, content: str) -> None:
        files[path] = (content.encode(), 0o644)

    def package_layer(
        layer: layers.Layer | layers.WheelLayer, name: str, entries: list[str]
    ) -> None:
        text(f"layers/{name}/requirements.txt", "\n".join(entries) + "\n")
        for key in ("remove", "strip"):
            patterns: list[str] = getattr(layer, key)
            if patterns:
                text(f"layers/{name}/{key}.txt", "\n".join(patterns) + "\n")

    used = [layer for layer in plan.layer if layer.name in spread]
    for layer in used:
        package_layer(layer, layer.name, spread[layer.name])
        if layer.links:
            text(
                f"layers/{layer.name}/links.txt",
                "".join(f"{name} {pattern}\n" for name, pattern in layer.links.items()),
            )
    wheel = lock.wheel
    package_layer(
        plan.wheel, "vllm", [f"{wheel.name}=={wheel.version} \\\n    --hash=sha256:{wheel.sha256}"]
    )
    if workspace.wheels and (workspace.wheels / wheel.filename).exists():
        data = (workspace.wheels / wheel.filename).read_bytes()
        files[f"layers/vllm/wheels/{wheel.filename}"] = (data, 0o644)
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
                    "pin a commit without it, or decide in higgs_image/render.py what it becomes",
                )
            kind = "code" if path.suffix == ".py" else "assets"
            mode = 0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644
            name = path.relative_to(folder).as_posix()
            data = patched.files.get(name) or path.read_bytes()
            files[f"layers/{kind}/{site}/{name}"] = (data, mode)
    for name, data in patched.files.items():
        files.setdefault(f"layers/code/{site}/{name}", (data, 0o644))
    start_code = workspace.root / "docker" / "runtime"
    for path in files_below(start_code / "higgs_runtime"):
        name = f"layers/code/{site}/{path.relative_to(start_code).as_posix()}"
        files[name] = (path.read_bytes(), 0o644)
    text("layers/code/usr/share/higgs-image/image.json", _image_json(lock, patched, overrides))
    for name in ("LICENSE", "NOTICE"):
        text(f"layers/code/usr/share/doc/higgs-image/{name}", (workspace.root / name).read_text())
    build_steps = workspace.root / "docker" / "build"
    for path in files_below(build_steps):
        files[f"build/{path.relative_to(build_steps).as_posix()}"] = (path.read_bytes(), 0o644)
    if lock.debian:
        text("build/snapshot.list", "".join(f"{line}\n" for line in lock.debian.snapshot))
    text("build/constraints.txt", lock.file(lock.python.build).read_text())
    text("installer/requirements.txt", lock.file(lock.python.installer).read_text())
    overlays = [x for x in ("assets", "code") if any(p.startswith(f"layers/{x}/") for p in files)]
    text("Dockerfile", _dockerfile(workspace, lock, used, overlays, patched, overrides))
    return dict(sorted(files.items()))


def _dockerfile(
    workspace: Workspace,
    lock: Lock,
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
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "ensure_ascii": False}
    environment.filters["tojson"] = _json  # Jinja's own escapes <, > and ' for HTML
    environment.filters["quoted"] = _quoted
    wheel = {"name": "vllm", "reason": f"The wheel of {lock.wheel.requirement}, with its kernels."}
    try:
        return environment.get_template("Dockerfile.j2").render(
            base=overrides.base_image or lock.base.reference,
            python=lock.python.version,
            layers=[{"name": x.name, "reason": x.reason} for x in used] + [wheel],
            overlays=overlays,
            labels=labels(lock, patched, overrides),
        )
    except jinja2.TemplateError as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename.endswith(".j2")]
        line = getattr(error, "lineno", None) or (lines[-1] if lines else 1)
        raise BuildError(
            f"{workspace.root / 'templates' / 'Dockerfile.j2'}:{line}: "
            f"{type(error).__name__}: {error}",
            "correct the template; what it may use is passed in by higgs_image/render.py",
        ) from None


def _json(value: object) -> str:
    import json

    return json.dumps(value, ensure_ascii=False)


def _quoted(value: str) -> str:
    """Quote a value as a Dockerfile has it: it expands variables, and knows no other escapes."""
    return '"' + re.sub(r'(["\\$])', r"\\\1", value) + '"'


def _image_json(lock: Lock, patched: Patched, overrides: Overrides) -> str:
    """Return what the image knows about itself at run time: weights, patches, origin."""
    import json

    facts = {
        "tag": lock.tag + overrides.mark,
        "lock_sha256": lock.sha256,
        "fork": {"url": lock.fork.url, "commit": lock.fork.commit},
        "weights": {x.role: {"repo": x.repo, "revision": x.revision} for x in lock.weights},
        "patches": patched.patches,
    }
    return json.dumps(facts, indent=1) + "\n"


def labels(lock: Lock, patched: Patched, overrides: Overrides) -> dict[str, str]:
    """Return the image's labels: OCI's standard annotation keys first, then our own."""
    base = overrides.base_image or lock.base.reference
    name, _, digest = base.partition("@")
    oci = {
        "title": "higgs-audio-vllm",
        "description": "Higgs Audio v2 speech server (vLLM, OpenAI-compatible API)",
        "source": lock.project.url if lock.project else lock.fork.url,
        # Of the source, so of the fork only: this project's commit is in the provenance, as each
        # commit would else give another digest.
        "revision": "" if lock.project else lock.fork.commit,
        "version": lock.tag,
        "created": lock.fork.date.isoformat(),
        "licenses": "Apache-2.0",
        "documentation": lock.project.url if lock.project else "",
        "base.name": name,
        "base.digest": digest,
    }
    own = {
        LABEL + "lock-sha256": lock.sha256,
        LABEL + "fork": f"{lock.fork.url} {lock.fork.commit}",
        LABEL + "vllm-base": f"{lock.vllm.ref} {lock.vllm.commit}",
        LABEL + "submodule": f"{lock.submodule.url} {lock.submodule.commit}",
        LABEL + "wheel-sha256": lock.wheel.sha256,
        LABEL + "requirements-sha256": lock.python.requirements_sha256,
        LABEL + "patches": " ".join(f"{x['name']}@{x['sha256'][:7]}" for x in patched.patches),
    }
    standard = {f"org.opencontainers.image.{k}": v for k, v in oci.items() if v}
    return standard | {k: v for k, v in own.items() if v} | overrides.labels()


def digest(files: Files) -> str:
    """Return one SHA-256 over names, modes and contents."""
    return sha256_bytes(
        "".join(f"{sha256_bytes(d)} {m:o} {p}\n" for p, (d, m) in files.items()).encode()
    )


def read(path: Path) -> Files:
    """Read an existing context; an absent one is empty."""
    if not path.is_dir():
        return {}
    return {file.relative_to(path).as_posix(): _read(file) for file in files_below(path)}


def _read(path: Path) -> tuple[bytes, int]:
    mode = path.lstat().st_mode
    if stat.S_ISREG(mode):
        return path.read_bytes(), stat.S_IMODE(mode)
    return b"", mode  # a link or a special file: never what was written


def drift(wanted: Files, found: Files) -> list[str]:
    """Return the names of files that are missing, extra or different."""
    return sorted(p for p in wanted.keys() | found.keys() if wanted.get(p) != found.get(p))


def diff(wanted: Files, found: Files) -> str:
    """Return a unified diff from what is there to what should be; binary files by name only."""
    pieces: list[str] = []
    for path in drift(wanted, found):
        (old, old_mode), (new, new_mode) = (side.get(path, (b"", 0)) for side in (found, wanted))
        before = f"a/{path}" if path in found else "/dev/null"
        after = f"b/{path}" if path in wanted else "/dev/null"
        try:
            texts = old.decode().split("\n"), new.decode().split("\n")
            lines = list(difflib.unified_diff(*texts, before, after, lineterm=""))
            if old_mode != new_mode:
                lines.insert(0, f"mode {old_mode:o} -> {new_mode:o}: {before} -> {after}")
            pieces.extend(lines)
        except UnicodeDecodeError:
            pieces.append(f"Binary files a/{path} and b/{path} differ")
    return "\n".join(pieces)


def require_current(workspace: Workspace, wanted: Files) -> None:
    """Refuse a context that differs from what the lock and the templates give.

    Raises:
        DriftError: naming the first files.
    """
    names = drift(wanted, read(workspace.context))
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise DriftError(
            f"{workspace.context} differs from what versions.lock and the templates give: "
            f"{', '.join(names[:3])}{more}",
            "see invoke render --diff; write it anew with invoke render",
        )


def write(workspace: Workspace, lock: Lock, files: Files) -> Context:
    """Put the context in place, whole or not at all; an equal one is left as it is."""
    path = workspace.context
    with workspace.exclusive("context"):
        changed = drift(files, read(path))
        if changed:
            new = path.with_name(".context.new")
            shutil.rmtree(new, ignore_errors=True)
            for name, (data, mode) in files.items():
                goal = new / name
                goal.parent.mkdir(parents=True, exist_ok=True)
                goal.write_bytes(data)
                goal.chmod(mode)
            # Dates and modes of folders do not reach the image, but caches see them. BuildKit
            # takes a file of equal size and date for unchanged and does not read it again: so
            # each file's date is made of its content.
            for name, (data, _) in files.items():
                content_date = int(sha256_bytes(data)[:15], 16)  # nanoseconds
                os.utime(new / name, ns=(content_date, content_date))
            for folder, _, _ in os.walk(new):
                Path(folder).chmod(0o755)
                os.utime(folder, (lock.fork.epoch, lock.fork.epoch))
            replace_folder(new, path)
    context = Context(path, digest(files), changed)
    log.info("render: %s (%d files, %d changed)", path, len(files), len(changed))
    return context
