"""Stage `render`: the same bytes every time, drift noticed, and a Dockerfile without complaints."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from higgs_image import process
from higgs_image.build import context as build_context
from higgs_image.build import render
from higgs_image.build.context import BuildContext, Files
from higgs_image.build.overrides import Overrides
from higgs_image.build.patches.apply import Patched
from higgs_image.build.source import Source
from higgs_image.errors import BuildError, DriftError, LockError, SourceError, UsageError
from higgs_image.files import sha256_bytes
from higgs_image.workspace import PROJECT, Workspace
from tests.unit.conftest import FORK_FILES, SUBMODULE_FILES, Project, write

SITE = "opt/venv/lib/python3.11/site-packages"


@pytest.fixture
def project(lock_only: Project) -> Project:
    return lock_only


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """Checkouts as the stage before leaves them."""
    found = Source(tmp_path / "checkout/fork", tmp_path / "checkout/submodule")
    write(found.fork, FORK_FILES)
    write(found.submodule, SUBMODULE_FILES)
    return found


def compute(project: Project, source: Source, overrides: Overrides | None = None) -> Files:
    return render.compute(
        project.workspace, project.load(), source, Patched(), overrides or Overrides()
    )


def rendered(project: Project, source: Source) -> tuple[Files, BuildContext]:
    files = compute(project, source)
    return files, build_context.write(project.workspace, project.load(), files)


# --- content


def test_context_is_minimal(project: Project, source: Source) -> None:
    files = compute(project, source)
    start_code = {
        f"layers/code/{SITE}/{path.relative_to(folder.parent)}": "0o644"
        for folder in (
            PROJECT / "docker/runtime/higgs_runtime",
            PROJECT / "docker/generate/higgs_generate",
        )
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".md")
    }
    assert {name: oct(mode) for name, (_, mode) in files.items()} == start_code | {
        "Dockerfile": "0o644",
        "build/call_sites.py": "0o644",
        "build/certificates.sh": "0o644",
        "build/constraints.txt": "0o644",
        "build/operators.py": "0o644",
        "build/operators.toml": "0o644",
        "build/step.py": "0o644",
        "build/stub.py": "0o644",
        **{
            f"build/device_code/{path.name}": "0o644"
            for path in (PROJECT / "docker/build/device_code").glob("*.py")
        },
        "installer/requirements.txt": "0o644",
        f"layers/assets/{SITE}/vllm/entrypoints/bosonai/voices/en_woman.wav": "0o644",
        f"layers/assets/{SITE}/vllm/tools/run.sh": "0o755",
        f"layers/code/{SITE}/boson_multimodal/__init__.py": "0o644",
        f"layers/code/{SITE}/boson_multimodal/audio_processing/codec.py": "0o644",
        f"layers/code/{SITE}/vllm/__init__.py": "0o644",
        f"layers/code/{SITE}/vllm/entrypoints/bosonai/api_server.py": "0o644",
        "layers/code/usr/share/doc/higgs-image/LICENSE": "0o644",
        "layers/code/usr/share/doc/higgs-image/NOTICE": "0o644",
        "layers/code/usr/share/higgs-image/image.json": "0o644",
        "layers/packages/requirements.txt": "0o644",
        "layers/torch/requirements.txt": "0o644",
        "layers/vllm/requirements.txt": "0o644",
    }
    assert files["layers/torch/requirements.txt"][0].decode() == (
        f"torch==2.6.0 \\\n    --hash=sha256:{'1' * 64}\n"
    )
    assert files["layers/vllm/requirements.txt"][0].decode() == (
        f"vllm==0.8.3 \\\n    --hash=sha256:{'d' * 64}\n"
    )


def test_lists_of_a_layer(project: Project, source: Source) -> None:
    layers = project.workspace.layers_file
    layers.write_text(
        layers.read_text().replace(
            'packages = ["*"]',
            'packages = ["*"]\nremove = ["a/*", "b"]\nstub = ["d.so"]\nstrip = ["c.so"]\n'
            'links = { x = "y/z-*" }',
        )
    )
    files = compute(project, source)
    assert files["layers/packages/remove.txt"][0] == b"a/*\nb\n"
    assert files["layers/packages/stub.txt"][0] == b"d.so\n"
    assert files["layers/packages/strip.txt"][0] == b"c.so\n"
    assert files["layers/packages/links.txt"][0] == b"x y/z-*\n"
    assert "layers/torch/remove.txt" not in files


def test_gpus_of_the_image(project: Project, source: Source) -> None:
    layers = project.workspace.layers_file
    layers.write_text('gpus = ["8.6", "9.0"]\n' + layers.read_text())
    files = compute(project, source)
    for layer in ("torch", "packages", "vllm"):
        assert files[f"layers/{layer}/gpus.txt"] == (b"8.6\n9.0\n", 0o644)
    assert labels_of(dockerfile(project, source))["org.higgs-image.gpus"] == "8.6 9.0"
    facts = json.loads(files["layers/code/usr/share/higgs-image/image.json"][0])
    assert facts["gpus"] == ["8.6", "9.0"]


def test_an_image_for_fewer_gpus(project: Project, source: Source) -> None:
    layers = project.workspace.layers_file
    layers.write_text('gpus = ["8.6", "8.9", "9.0"]\n' + layers.read_text())
    overrides = Overrides(gpus=("8.6", "8.9"))
    files = compute(project, source, overrides)
    assert files["layers/torch/gpus.txt"][0] == b"8.6\n8.9\n"
    facts = json.loads(files["layers/code/usr/share/higgs-image/image.json"][0])
    assert facts["gpus"] == ["8.6", "8.9"]
    assert facts["tag"] == f"{project.load().tag}-sm86-sm89"
    assert overrides.labels() == {}, "it can be released"
    assert Overrides("debian:12", gpus=("8.9",)).mark.startswith("-sm89-dev-")
    with pytest.raises(UsageError, match=r"--gpus 7\.5: the image does not support") as caught:
        compute(project, source, Overrides(gpus=("8.9", "7.5")))
    assert "8.6, 8.9, 9.0" in caught.value.hint


def test_local_wheel(project: Project, source: Source, tmp_path: Path) -> None:
    wheel = project.load().wheel.filename
    write(tmp_path / "wheels", {wheel: "wheel", "other.whl": "no"})
    workspace = replace(project.workspace, wheels=tmp_path / "wheels")
    files = render.compute(workspace, project.load(), source, Patched(), Overrides())
    assert files[f"layers/vllm/wheels/{wheel}"] == (b"wheel", 0o644)
    assert not any("other.whl" in name for name in files)


def test_bytecode_of_a_checkout_is_not_rendered(project: Project, source: Source) -> None:
    write(source.fork, {"vllm/__pycache__/x.cpython-311.pyc": "bytecode"})
    assert not any("pycache" in name for name in compute(project, source))


@pytest.mark.parametrize(
    ("where", "package"), [("fork", "vllm"), ("submodule", "boson_multimodal")]
)
def test_a_checkout_without_its_package_is_refused(
    project: Project, source: Source, where: str, package: str
) -> None:
    """Such an image would build, and hold the wheel's server instead of the fork's."""
    shutil.rmtree(getattr(source, where) / package)
    with pytest.raises(SourceError, match=f"has no {package}/"):
        compute(project, source)


@pytest.mark.parametrize("target", ["/etc/passwd", "__init__.py", "/no-such-place", "entrypoints"])
def test_a_link_in_the_package_is_refused(project: Project, source: Source, target: str) -> None:
    (source.fork / "vllm/link.py").symlink_to(target)
    with pytest.raises(SourceError, match=r"link\.py is a symbolic link"):
        compute(project, source)


def test_requirements_that_are_not_pinned(project: Project, source: Source) -> None:
    path = project.load().file("requirements/requirements.txt")
    path.write_text("--extra-index-url https://evil.example\n" + path.read_text())
    with pytest.raises(LockError, match="extra-index-url"):
        compute(project, source)


# --- the same every time


def on_disk(root: Path) -> dict[str, tuple[int, int, bytes]]:
    return {
        p.relative_to(root).as_posix(): (
            p.stat().st_mode,
            int(p.stat().st_mtime),
            b"" if p.is_dir() else p.read_bytes(),
        )
        for p in [root, *root.rglob("*")]
    }


def test_the_context_does_not_depend_on_place_umask_or_time(
    project: Project, source: Source, tmp_path: Path
) -> None:
    _, first = rendered(project, source)
    elsewhere = tmp_path / "else where" / "ü"
    shutil.copytree(source.fork.parent, elsewhere / "checkout")
    root = elsewhere / "project"
    for name in ("docker", "templates"):
        shutil.copytree(PROJECT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("LICENSE", "NOTICE"):
        shutil.copyfile(PROJECT / name, root / name)
    shutil.copytree(project.workspace.lock_file.parent, elsewhere / "lock")
    for path in elsewhere.rglob("*"):
        os.utime(path, (1e9, 1e9))
    workspace = Workspace(
        elsewhere / "build", elsewhere / "lock/versions.lock", elsewhere / "lock/layers.toml",
        root=root,
    )  # fmt: skip
    other = Project(workspace, project.upstream)
    before = os.umask(0o077)
    try:
        _, second = rendered(
            other, Source(elsewhere / "checkout/fork", elsewhere / "checkout/submodule")
        )
    finally:
        os.umask(before)
    assert second.sha256 == first.sha256
    assert on_disk(second.path) == on_disk(first.path)
    assert str(tmp_path).encode() not in b"".join(c for _, _, c in on_disk(first.path).values())


def test_the_date_of_a_file_follows_from_its_content(project: Project, source: Source) -> None:
    """BuildKit does not read a file again whose size and date are those of last time."""
    server = source.fork / "vllm/entrypoints/bosonai/api_server.py"

    def dates() -> dict[str, int]:
        _, context = rendered(project, source)
        return {p.name: p.stat().st_mtime_ns for p in context.path.rglob("*.py")}

    first = dates()
    before = server.stat()
    server.write_text("print('SERVER')\n")
    assert server.stat().st_size == before.st_size
    second = dates()
    assert {name for name in first if first[name] != second[name]} == {"api_server.py"}
    server.write_text("print('server')\n")
    assert dates() == first


def test_an_equal_context_is_left_as_it_is(project: Project, source: Source) -> None:
    files, first = rendered(project, source)
    assert first.changed == sorted(files)
    inode = first.path.stat().st_ino
    _, again = rendered(project, source)
    assert again.changed == []
    assert again.path.stat().st_ino == inode
    assert again.sha256 == first.sha256


# --- drift


def edit(context: Path) -> str:
    path = context / "Dockerfile"
    path.write_text(path.read_text().replace("EXPOSE 8000", "EXPOSE 9000"))
    return "Dockerfile"


def edit_of_equal_size_and_date(context: Path) -> str:
    path = context / "build/step.py"
    before = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return "build/step.py"


def remove(context: Path) -> str:
    (context / "layers/torch/requirements.txt").unlink()
    return "layers/torch/requirements.txt"


def add(context: Path) -> str:
    (context / "extra.txt").write_text("")
    return "extra.txt"


def change_mode(context: Path) -> str:
    (context / "build/step.py").chmod(0o755)
    return "build/step.py"


def binary(context: Path) -> str:
    (context / "Dockerfile").write_bytes(b"\xff\xfe")
    return "Dockerfile"


def link_to_file(context: Path) -> str:
    (context / "Dockerfile").rename(context.parent / "moved")
    (context / "Dockerfile").symlink_to(context.parent / "moved")
    return "Dockerfile"


def link_to_folder(context: Path) -> str:
    (context / "link").symlink_to("build")
    return "link"


def pipe(context: Path) -> str:
    os.mkfifo(context / "pipe")
    return "pipe"


@pytest.mark.parametrize(
    "drift",
    [edit, edit_of_equal_size_and_date, remove, add, change_mode, binary, link_to_file,
     link_to_folder, pipe],
)  # fmt: skip
def test_drift_is_noticed_shown_and_repaired(
    project: Project, source: Source, drift: Callable[[Path], str]
) -> None:
    files, context = rendered(project, source)
    build_context.drift(context.path, files).require_none()
    name = drift(context.path)
    found = build_context.drift(context.path, files)
    with pytest.raises(DriftError, match=re.escape(name)) as caught:
        found.require_none()
    assert caught.value.exit_code == 13
    assert "./inv render" in caught.value.hint
    assert found.files == [name]
    assert name in found.diff
    assert build_context.write(project.workspace, project.load(), files).changed == [name]
    build_context.drift(context.path, files).require_none()


def test_the_diff_goes_from_disk_to_expected(project: Project, source: Source) -> None:
    files, context = rendered(project, source)
    edit(context.path)
    text = build_context.drift(context.path, files).diff
    assert text.startswith("--- a/Dockerfile\n+++ b/Dockerfile\n@@")
    assert "\n-EXPOSE 9000\n+EXPOSE 8000\n" in text
    (context.path / "build/step.py").chmod(0o755)
    assert "mode 755 -> 644: a/build/step.py" in build_context.drift(context.path, files).diff
    (context.path / "new").touch()
    assert "a/new -> /dev/null" in build_context.drift(context.path, files).diff
    assert "ümlaut" not in build_context.drift(context.path, files).diff


def test_many_differences_are_counted(project: Project, source: Source) -> None:
    drift = build_context.drift(project.workspace.context, compute(project, source))
    with pytest.raises(DriftError, match=f"and {len(drift.files) - 3} more"):
        drift.require_none()


def test_a_changed_source_file_is_the_only_change(project: Project, source: Source) -> None:
    rendered(project, source)
    (source.fork / "vllm/__init__.py").write_text("x = 1\n")
    _, context = rendered(project, source)
    assert context.changed == [f"layers/code/{SITE}/vllm/__init__.py"]


def test_the_leftover_of_a_killed_run_is_replaced(project: Project, source: Source) -> None:
    write(project.workspace.build / ".context.new-killed", {"half": ""})
    files, context = rendered(project, source)
    assert sorted(build_context.read(context.path)) == sorted(files)
    assert not (project.workspace.build / ".context.new-killed").exists()


# --- templates


@pytest.fixture
def template(project: Project, source: Source, tmp_path: Path) -> Callable[[str], Files]:
    """Return a function that renders another Dockerfile.j2."""
    root = tmp_path / "root"
    shutil.copytree(PROJECT / "docker", root / "docker")
    for name in ("LICENSE", "NOTICE"):
        shutil.copyfile(PROJECT / name, root / name)
    (root / "templates").mkdir()

    def compute_with(text: str | None) -> Files:
        if text is not None:
            (root / "templates/Dockerfile.j2").write_text(text)
        workspace = replace(project.workspace, root=root)
        return render.compute(workspace, project.load(), source, Patched(), Overrides())

    return compute_with


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ("FROM {{ base }}\nRUN x\nLABEL a={{ typo }}\n", 3, "'typo' is undefined"),
        ("FROM {{ base }}\n{% for x in layers %}\n{{ x.nam }}\n{% endfor %}\n", 3, "nam"),
        ("FROM {{ base }}\n{% for x in layers %}\n", 2, "endfor"),
        ("FROM {{ base }}\nRUN {{ base | nofilter }}\n", 2, "nofilter"),
        ("{{ base\n", 1, "end of print statement"),
        ("FROM x\n{% include 'other.j2' %}\n", 2, "other.j2"),
        (None, 1, "Dockerfile.j2"),
    ],
)
def test_a_wrong_template_is_named_with_its_line(
    template: Callable[[str | None], Files], text: str | None, line: int, part: str
) -> None:
    with pytest.raises(BuildError) as caught:
        template(text)
    assert f"templates/Dockerfile.j2:{line}: " in caught.value.message
    assert part in caught.value.message
    assert "correct the template" in caught.value.hint


# What a Dockerfile makes of each was compared with a real build (buildx 0.13, dockerd 26).
@pytest.mark.parametrize(
    ("value", "quoted"),
    [
        ("plain", '"plain"'),
        ('with "quotes"', r'"with \"quotes\""'),
        (r"$HOME ${X} \$Y", r'"\$HOME \${X} \\\$Y"'),
        ("back\\slash \\n end\\", r'"back\\slash \\n end\\"'),
        ("it's `id` # no comment", '"it\'s `id` # no comment"'),
        ("ümlaut ☃  two", '"ümlaut ☃  two"'),
    ],
)
def test_label_values_are_quoted_as_a_dockerfile_has_it(
    template: Callable[[str], Files], project: Project, value: str, quoted: str
) -> None:
    project.replace('"v0.8.3"', json.dumps(value, ensure_ascii=False))
    files = template("{{ labels['org.higgs-image.vllm-base'] | quoted }}")
    assert files["Dockerfile"][0].decode() == f'{quoted[:-1]} {"b" * 40}"'


# --- the real Dockerfile


def dockerfile(project: Project, source: Source, overrides: Overrides | None = None) -> str:
    return compute(project, source, overrides)["Dockerfile"][0].decode()


def labels_of(text: str) -> dict[str, str]:
    block = re.search(r"^LABEL (.*?)\n\n", text, re.DOTALL | re.MULTILINE)
    assert block
    pairs = (line.strip().split("=", 1) for line in block[1].split(" \\\n"))
    return {name: json.loads(value) for name, value in pairs}


def test_labels(project: Project, source: Source) -> None:
    lock = project.load()
    oci = "org.opencontainers.image."
    assert labels_of(dockerfile(project, source)) == {
        f"{oci}title": "higgs-audio-vllm",
        f"{oci}description": "Higgs Audio v2 speech server (vLLM, OpenAI-compatible API)",
        f"{oci}source": "https://git.invalid/fork.git",
        f"{oci}revision": lock.fork.commit,
        f"{oci}version": lock.tag,
        f"{oci}created": "2025-07-30T16:20:54-07:00",
        f"{oci}licenses": "Apache-2.0",
        f"{oci}base.name": "debian:bookworm-slim",
        f"{oci}base.digest": f"sha256:{'c' * 64}",
        "org.higgs-image.lock-sha256": lock.sha256,
        "org.higgs-image.fork": f"https://git.invalid/fork.git {lock.fork.commit}",
        "org.higgs-image.vllm-base": f"v0.8.3 {'b' * 40}",
        "org.higgs-image.submodule": f"https://git.invalid/audio.git {lock.submodule.commit}",
        "org.higgs-image.wheel-sha256": "d" * 64,
        "org.higgs-image.requirements-sha256": lock.python.requirements_sha256,
    }


def test_a_locked_project_url_is_the_source_label(project: Project, source: Source) -> None:
    text = project.text + '\n[project]\nurl = "https://git.invalid/acme/higgs-image"\n'
    project.workspace.lock_file.write_text(text)
    labels = labels_of(dockerfile(project, source))
    assert labels["org.opencontainers.image.source"] == "https://git.invalid/acme/higgs-image"
    assert "org.opencontainers.image.revision" not in labels
    assert labels["org.higgs-image.fork"].startswith("https://git.invalid/fork.git ")


def test_a_snapshot_of_the_archive_is_rendered_for_apt(project: Project, source: Source) -> None:
    line = "deb [signed-by=/usr/share/keyrings/x.gpg] http://archive.invalid/20260101 bookworm main"
    project.workspace.lock_file.write_text(project.text + f'\n[debian]\nsnapshot = ["{line}"]\n')
    lock = project.load()
    patched = Patched({}, [])
    files = render.compute(project.workspace, lock, source, patched, Overrides())
    assert files["build/snapshot.list"] == (f"{line}\n".encode(), 0o644)


@pytest.mark.parametrize(
    "line",
    ["http://x bookworm main", "deb ftp://x bookworm main", "deb http://u:p@x bookworm main",
     "deb http://x bookworm", "deb http://x bookworm main\\ndeb http://y z main"],
)  # fmt: skip
def test_a_malformed_apt_line_is_refused(project: Project, line: str) -> None:
    project.workspace.lock_file.write_text(project.text + f'\n[debian]\nsnapshot = ["{line}"]\n')
    with pytest.raises(LockError, match="snapshot"):
        project.load()


def test_each_layer_is_a_stage_that_the_image_copies(project: Project, source: Source) -> None:
    text = dockerfile(project, source)
    [*built, image] = re.findall(r"^FROM system AS (\w+)\n(.*?)(?=^FROM|\Z)", text, re.S | re.M)
    assert [name for name, _ in built] == ["torch", "packages", "vllm"]
    for name, stage in built:
        assert f"source=layers/{name},target=/layer" in stage
        assert f"step.py packages {name}\n" in stage
    copied = re.findall(r"^COPY --link --from=(\S+) /packages/(\S+) /$", image[1], re.M)
    assert copied == [(name, name) for name, _ in built]


def test_overrides_are_recorded(project: Project, source: Source, tmp_path: Path) -> None:
    certificate = tmp_path / "ca.pem"
    certificate.write_text("-----BEGIN CERTIFICATE-----\n")
    text = dockerfile(project, source, Overrides("127.0.0.1:5000/debian:x", certificate))
    labels = labels_of(text)
    assert labels["org.higgs-image.overrides"] == "base-image"
    assert labels["org.higgs-image.extra-ca-sha256"] == sha256_bytes(certificate.read_bytes())
    assert labels["org.opencontainers.image.base.name"] == "127.0.0.1:5000/debian:x"
    assert "org.opencontainers.image.base.digest" not in labels
    assert re.findall(r"^FROM 127.0.0.1:5000/debian:x AS (\w+)$", text, re.M) == ["system", "tools"]
    assert "BEGIN CERTIFICATE" not in text


@pytest.mark.parametrize(
    "base", ["debian\nRUN id", "debian AS x", "$BASE", "debian ", 'a"b', "a\\b", "--platform=x y"]
)
def test_a_base_image_that_is_not_a_reference_is_refused(base: str) -> None:
    with pytest.raises(UsageError, match="is not an image reference"):
        Overrides(base_image=base)


def test_command_and_health_check_are_json(project: Project, source: Source) -> None:
    text = dockerfile(project, source)
    for name in ("ENTRYPOINT", "CMD", r"    CMD"):
        found = re.search(rf"^{name} (\[.*\])$", text, re.MULTILINE)
        assert found, name
        assert all(isinstance(word, str) for word in json.loads(found[1]))
    assert '"python3", "-m", "higgs_runtime"]' in text
    assert 'NVIDIA_REQUIRE_CUDA="cuda>=12.4"' in text
    assert "{{" not in text
    assert "{%" not in text


@pytest.mark.parametrize(
    "base", [None, "127.0.0.1:5000/debian:bookworm-slim", f"r.example/d@sha256:{'a' * 64}"]
)
def test_hadolint_accepts_the_dockerfile(
    project: Project, source: Source, tmp_path: Path, base: str | None
) -> None:
    path = tmp_path / "Dockerfile"
    path.write_text(dockerfile(project, source, Overrides(base_image=base)))
    done = process.run(["hadolint", "--no-color", str(path)])
    assert (done.code, done.out) == (0, ""), done.err


def test_shell_of_the_build_steps_is_valid() -> None:
    script = PROJECT / "docker/build/certificates.sh"
    subprocess.run(["sh", "-n", script], check=True)


def test_patched_files_replace_those_of_the_fork(project: Project, source: Source) -> None:
    patched = Patched(
        {"vllm/__init__.py": b"patched = 1\n", "higgs_patches/patches/defect.py": b"ours = 1\n"},
        [{"name": "defect", "title": "Fixes it", "issues": [], "sha256": "ab" * 32}],
    )
    files = render.compute(project.workspace, project.load(), source, patched, Overrides())
    assert files[f"layers/code/{SITE}/vllm/__init__.py"] == (b"patched = 1\n", 0o644)
    assert files[f"layers/code/{SITE}/higgs_patches/patches/defect.py"] == (b"ours = 1\n", 0o644)
    assert b'org.higgs-image.patches="defect@abababa"' in files["Dockerfile"][0]
    facts = json.loads(files["layers/code/usr/share/higgs-image/image.json"][0])
    assert facts["patches"] == patched.patches
    assert facts["weights"]["generation"] == {"repo": "bosonai/model", "revision": "e" * 40}
    assert facts["weights"]["semantic-model"]["revision"] is None
    assert facts["tag"] == project.load().tag


def test_a_patch_left_out_marks_the_image(project: Project) -> None:
    overrides = Overrides("debian:12", without=("b", "a"))
    assert overrides.labels()["org.higgs-image.overrides"] == "base-image without-a without-b"
    assert Overrides(without=("a",)).mark.startswith("-dev-")
    assert Overrides(without=("a",)).mark != Overrides(without=("b",)).mark
