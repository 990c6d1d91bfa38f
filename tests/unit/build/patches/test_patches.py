"""The stage `patches`: each patch fits what it was written for, or says what does not fit."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from higgs_image import lockfile
from higgs_image.build.patches import apply, check, codemod, model
from higgs_image.build.source import Source
from higgs_image.errors import LockError, PatchError, UsageError
from higgs_image.files import sha256_bytes
from tests.unit.conftest import Project, write

FILE = "vllm/server.py"
OLD = "def broken():\n    return 1"
FORK = f"{OLD}\n\n\ndef good():\n    return 3\n"


def header(**changes: object) -> str:
    target = {
        "file": FILE,
        "name": "broken",
        "how": "replace",
        "with": "repaired",
        "sha256": sha256_bytes(OLD.encode()),
        "fixed": r"return 2\b",
    }
    literal = {
        "title": "Make it return two",
        "issues": ["https://github.com/x/y/issues/1"],
        "why": "It returns one.",
        "obsolete_when": "it returns two.",
        "targets": [target | {k: v for k, v in changes.items() if k in target}],
    } | {k: v for k, v in changes.items() if k not in target}
    return f'"""A patch."""\n\nPATCH = {literal!r}\n\n\ndef repaired():\n    return 2\n'


@pytest.fixture
def source(tmp_path: Path) -> Source:
    found = Source(tmp_path / "checkout/fork", tmp_path / "checkout/submodule")
    write(found.fork, {FILE: FORK})
    return found


@pytest.fixture
def patched(project: Project) -> Project:
    """A project with one patch and a helper module beside it."""
    folder = project.workspace.lock_file.parent
    write(folder, {"patches/patches/defect.py": header(), "patches/lib/tool.py": "x = 1\n"})
    project.workspace.lock_file.write_text(
        project.text + '\n[patches]\nfolder = "patches"\n\n[patches.sha256]\n'
    )
    lockfile.refresh(project.load(), project.workspace.root)
    return project


def edit(project: Project, text: str, name: str = "defect") -> None:
    write(project.workspace.lock_file.parent, {f"patches/patches/{name}.py": text})


def recorded(project: Project) -> list[str]:
    patches = project.load().patches
    return list(patches.sha256) if patches else []


def ensure(project: Project, source: Source, *without: str) -> apply.Patched:
    return apply.ensure(project.workspace, project.load(), source, without)


# --- the lock


def test_the_lock_records_every_patch(patched: Project) -> None:
    before = patched.load()
    assert before.patches
    assert before.patches.sha256 == {"defect": sha256_bytes(header().encode())}
    edit(patched, header(title="Another"))
    edit(patched, header(file="vllm/other.py"), "second")
    found = lockfile.differences(before, patched.workspace.root)
    assert [(x.key, x.locked == "none") for x in found] == [
        ("patches.sha256.defect", False),
        ("patches.sha256.second", True),
    ]
    with pytest.raises(LockError, match=r"patches\.sha256\.second is \w{12}\.\.\., locked none"):
        lockfile.require_consistent(before, patched.workspace.root)
    lockfile.refresh(before, patched.workspace.root)
    assert recorded(patched) == ["defect", "second"]
    (patched.workspace.lock_file.parent / "patches/patches/defect.py").unlink()
    lockfile.refresh(patched.load(), patched.workspace.root)
    assert recorded(patched) == ["second"]
    lockfile.require_consistent(patched.load(), patched.workspace.root)


# --- applying


def test_functions_are_replaced_and_the_package_is_added(patched: Project, source: Source) -> None:
    done = ensure(patched, source)
    assert done.files[FILE].decode() == FORK.replace(
        OLD, "from higgs_patches.patches.defect import repaired as broken"
    )
    assert done.files["higgs_patches/lib/tool.py"] == b"x = 1\n"
    assert [x["name"] for x in done.patches] == ["defect"]
    assert (source.fork / FILE).read_text() == FORK


def test_documentation_beside_the_patches_is_not_in_the_image(
    patched: Project, source: Source
) -> None:
    before, tag = ensure(patched, source), patched.load().tag
    folder = patched.workspace.lock_file.parent / "patches"
    write(folder, {"README.md": "Why.\n", "lib/notes.md": "How.\n"})
    lockfile.refresh(patched.load(), patched.workspace.root)
    assert patched.load().tag == tag
    assert ensure(patched, source) == before
    edit(patched, header(title="Another"))
    lockfile.refresh(patched.load(), patched.workspace.root)
    assert patched.load().tag != tag


def test_a_patch_that_is_left_out_is_not_applied(patched: Project, source: Source) -> None:
    done = ensure(patched, source, "defect")
    assert FILE not in done.files
    assert "higgs_patches/patches/defect.py" in done.files  # others may import from it
    assert done.patches == []
    with pytest.raises(UsageError, match="unknown patch: 'mand'") as caught:
        ensure(patched, source, "mand")
    assert "defect" in caught.value.hint


def test_without_patches_the_source_is_unchanged(project: Project, source: Source) -> None:
    assert ensure(project, source) == apply.Patched()
    assert not (project.workspace.build / "patched").exists()


def test_the_result_is_reused_until_an_input_changes(
    patched: Project, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ensure(patched, source)
    with monkeypatch.context() as context:
        context.setattr(apply, "apply", lambda *_: pytest.fail("applied again"))
        assert ensure(patched, source) == first
    (patched.workspace.build / "patched" / FILE).write_text("tampered")
    assert ensure(patched, source) == first
    edit(patched, header(title="New"))
    assert ensure(patched, source).patches[0]["title"] == "New"
    assert FILE not in ensure(patched, source, "defect").files
    assert ensure(patched, source).files[FILE] == first.files[FILE]


@pytest.mark.parametrize(
    ("fork", "state", "hint"),
    [
        (FORK.replace("return 1", "return 2"), "obsolete", "it is fixed upstream"),
        (FORK.replace("return 1", "return 12"), "changed", "read what upstream changed"),
        (FORK.replace("broken", "renamed"), "missing", "find its new place"),
        (FORK + f"\n\n{OLD}\n", "missing", "defines it twice"),
        (None, "missing", "find its new place"),
    ],
)
def test_a_target_that_differs_is_refused(
    patched: Project, source: Source, fork: str | None, state: str, hint: str
) -> None:
    (source.fork / FILE).unlink() if fork is None else write(source.fork, {FILE: fork})
    with pytest.raises(PatchError) as caught:
        ensure(patched, source)
    assert caught.value.message == f"patch defect does not fit: {FILE} broken is {state}"
    assert hint in caught.value.hint
    assert "needed until: it returns two." in caught.value.hint
    report = check.report(patched.load(), check.roots_of(source))
    assert report.text().startswith(
        f"{state:<9} defect  Make it return two\n  {state}: {FILE} broken"
    )
    assert ensure(patched, source, "defect").patches == []


def test_the_report_lists_every_patch(patched: Project, source: Source) -> None:
    report = check.report(patched.load(), check.roots_of(source))
    assert report.text() == "applies   defect  Make it return two"
    report = check.report(patched.load(), check.roots_of(source), ["defect"])
    assert report.text() == "left out  defect  Make it return two"
    report.require_fit()


def test_the_diff_shows_the_replaced_function(patched: Project, source: Source) -> None:
    roots = check.roots_of(source)
    report = check.report(patched.load(), roots)
    lines = apply.diff(roots, apply.apply(report.patches, roots)).split("\n")
    assert lines[:2] == [f"--- a/{FILE}", f"+++ b/{FILE}"]
    assert [x for x in lines[3:] if x[0] in "+-"] == [
        "-def broken():",
        "-    return 1",
        "+from higgs_patches.patches.defect import repaired as broken",
    ]


# --- headers


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def broken(:\n", r"defect\.py:1: "),
        ("PATCH = {'title': print}\n", "PATCH: malformed node"),
        (header(extra=1), "unknown field `extra`"),
        (header(how="remove"), "Invalid enum value 'remove'"),
        (header(file="/etc/passwd.py"), "matching regex"),
        (header(sha256="abc"), "matching regex"),
        (header(title="two\nlines"), "matching regex"),
        (header(targets=[]), "length >= 1"),
        (header(**{"with": "absent"}), "broken is to be changed with absent, which is not defined"),
    ],
)
def test_a_malformed_header_names_the_module(patched: Project, text: str, message: str) -> None:
    edit(patched, text)
    with pytest.raises(PatchError, match=message) as caught:
        model.load(patched.workspace.lock_file.parent / "patches")
    assert "defect.py" in caught.value.message
    assert caught.value.hint


def test_two_replacements_of_one_function_are_refused(patched: Project, source: Source) -> None:
    edit(patched, header(), "second")
    folder = patched.workspace.lock_file.parent / "patches"
    with pytest.raises(PatchError, match="broken is replaced by defect, too"):
        model.load(folder)
    edit(patched, header(how="wrap"))
    edit(patched, header(how="wrap"), "second")
    text = ensure(patched, source).files[FILE].decode()
    found = re.findall(r"^@_higgs_patches_\w+_(\w+)_repaired$", text, re.MULTILINE)
    assert found == ["defect", "second"] and "_second_repaired\ndef broken" in text


def test_a_result_that_is_not_python_names_the_patch(
    patched: Project, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codemod, "swap", lambda *_: "def (\n")
    with pytest.raises(
        PatchError, match=rf"{FILE}:1: the patched file is not valid Python"
    ) as caught:
        ensure(patched, source)
    assert "defect" in caught.value.hint


def test_the_result_can_be_written_as_json(patched: Project, source: Source) -> None:
    json.dumps(ensure(patched, source).patches)
    assert replace(ensure(patched, source)) == ensure(patched, source)
