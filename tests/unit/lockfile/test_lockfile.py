"""versions.lock: what is accepted, what is refused and how, and what `refresh` writes."""

from __future__ import annotations

import datetime
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from higgs_image import lockfile
from higgs_image.errors import LockError
from higgs_image.files import sha256_bytes, sha256_file
from higgs_image.workspace import PROJECT
from tests.unit.conftest import HOST, Project, write

Edit = Callable[[str], str]


@pytest.fixture
def project(lock_only: Project) -> Project:
    return lock_only


def swap(old: str, new: str) -> Edit:
    def edit(text: str) -> str:
        assert old in text, old
        return text.replace(old, new, 1)

    return edit


def regex(old: str, new: str) -> Edit:
    def edit(text: str) -> str:
        changed, count = re.subn(old, new, text, count=1, flags=re.MULTILINE | re.DOTALL)
        assert count, old
        return changed

    return edit


def refuse(project: Project, data: bytes) -> LockError:
    project.workspace.lock_file.write_bytes(data)
    with pytest.raises(LockError) as caught:
        project.load()
    assert caught.value.exit_code == 10
    assert caught.value.hint
    return caught.value


def value(key: str, new: str) -> Edit:
    """Give every line `key = ...` within the first table that has it another value."""
    return regex(rf"^{key} *= [^\n]*", f"{key} = {new}")


# Each: what is changed, the text of the line that the error must point to, words of the message,
# words of the remedy.
REFUSED: dict[str, tuple[Edit, str, str, str]] = {
    "unknown key, top": (lambda t: "foo = 1\n" + t, "foo = 1", "unknown key foo", "remove it"),
    "unknown key, table": (
        swap('ref = "main"', 'ref = "main"\nrev = 1'),
        "rev = 1",
        "unknown key rev",
        "remove it",
    ),
    "unknown key, subtle": (
        swap('input = "', 'inputs = "x"\ninput = "'),
        "inputs =",
        "unknown key inputs",
        "remove it",
    ),
    "unknown key, quoted": (
        swap('ref = "main"', 'ref = "main"\n"a b" = 1'),
        '"a b"',
        "unknown key a b",
        "remove it",
    ),
    "unknown key, weights": (
        swap('role = "audio-tokenizer"', 'role = "audio-tokenizer"\nsha = "x"'),
        "sha =",
        "unknown key sha",
        "remove it",
    ),
    "unknown key, date of the fork at the top": (
        swap("schema = 1", "schema = 1\nref = 1"),
        "ref = 1",
        "unknown key ref",
        "remove it",
    ),
    "unknown table": (
        lambda t: t + "[nonsense]\nx = 1\n",
        "[nonsense]",
        "unknown key nonsense",
        "remove it",
    ),
    "unknown key after U+2028": (
        lambda t: "# \u2028 \x85 \u2029\n" + swap('ref = "main"', 'ref = "main"\nrev = 1')(t),
        "rev = 1",
        "unknown key rev",
        "remove it",
    ),
    "duplicate key": (
        swap('ref = "main"', 'ref = "main"\nref = "next"'),
        'ref = "next"',
        "overwrite",
        "correct that line",
    ),
    "duplicate key at the very end": (
        lambda t: t.rstrip() + "\npaths = []",
        "paths = []",
        "overwrite",
        "correct that line",
    ),
    "duplicate table": (
        lambda t: t + '[fork]\nref = "x"\n',
        '[fork]\nref = "x"',
        "twice",
        "correct that line",
    ),
    "no TOML": (
        swap('ref = "main"', "ref = main"),
        "ref = main",
        "Invalid value",
        "correct that line",
    ),
    "unclosed string": (
        swap('ref = "main"', 'ref = "main'),
        'ref = "main',
        "",
        "correct that line",
    ),
    "missing key": (swap('ref = "main"\n', ""), "[fork]", "fork.ref is missing", "add ref ="),
    "missing key in weights": (
        swap('repo = "bosonai/tokenizer"\n', ""),
        '[[weights]]\nrole = "audio-tokenizer"',
        "weights[1].repo is missing",
        "add repo =",
    ),
    "missing key in trees' table": (
        regex(r"\[vllm\.trees\]\n.*?\n\n", ""),
        "[vllm]",
        "vllm.trees is missing",
        "add trees =",
    ),
    "short commit": (
        regex(r'(\[fork\].*?commit = "\w{7})\w+', r"\1"),
        "commit =",
        "fork.commit is '",
        "full 40 hex",
    ),
    "commit with a line break": (
        regex(r'(\[fork\].*?commit = "\w{40})', r"\1\\\\n"),
        "commit =",
        "fork.commit is '",
        "full 40 hex",
    ),
    "commit in capitals": (
        value("commit", f'"{"A" * 40}"'),
        "commit =",
        "fork.commit is 'AAAA",
        "full 40 hex",
    ),
    "short tree": (value("tree", '"abc"'), "tree =", "fork.tree is 'abc'", "full 40 hex"),
    "short kernel tree": (
        value('"CMakeLists.txt"', '"abc"'),
        '"CMakeLists.txt"',
        "vllm.trees.CMakeLists.txt is 'abc'",
        "full 40 hex",
    ),
    "kernel tree that is not text": (
        value('"cmake"', "7"),
        '"cmake"',
        "vllm.trees.cmake is 7",
        "expected `str`",
    ),
    "no kernel tree": (
        regex(r"(\[vllm\.trees\]\n).*?\n\n", r"\1\n"),
        "[vllm.trees]",
        "no compiled part",
        "csrc",
    ),
    "short revision": (
        regex(r'(audio-tokenizer".*?revision = ")\w+', r"\1abc"),
        'revision = "abc"',
        "weights[1].revision is 'abc'",
        "full 40 hex",
    ),
    "short wheel hash": (
        value("sha256", '"abc"'),
        'sha256 = "abc"',
        "wheel.sha256 is 'abc'",
        "full 64 hex",
    ),
    "short file hash": (
        value("build_sha256", '"abc"'),
        "build_sha256",
        "python.build_sha256 is 'abc'",
        "full 64 hex",
    ),
    "digest without algorithm": (
        swap('digest = "sha256:', 'digest = "'),
        "digest =",
        "base.digest is 'ccc",
        "sha256: and 64",
    ),
    "digest with another algorithm": (
        swap('digest = "sha256:', 'digest = "sha512:'),
        "digest =",
        "base.digest is 'sha512",
        "sha256: and 64",
    ),
    "short digest": (
        value("digest", '"sha256:abc"'),
        "digest =",
        "base.digest is",
        "sha256: and 64",
    ),
    "number for text": (
        swap('ref = "main"', "ref = 3"),
        "ref = 3",
        "fork.ref is 3",
        "expected `str`, got `int`",
    ),
    "text for number": (
        swap("schema = 1", 'schema = "1"'),
        "schema =",
        "schema is '1'",
        "expected `int`",
    ),
    "table for text": (
        swap('ref = "main"', 'ref = { a = "b" }'),
        "ref =",
        "fork.ref",
        "expected `str`, got `object`",
    ),
    "missing table": (regex(r"\[base\].*?\n\n", ""), "# A comment", "base is missing", "add base"),
    "text for weights": (
        lambda t: 'weights = "x"\n' + re.sub(r"\[\[weights\]\].*?\n\n", "", t, flags=re.DOTALL),
        "weights =",
        "weights is 'x'",
        "expected `array`",
    ),
    "empty text": (swap('ref = "main"', 'ref = ""'), "ref =", "fork.ref is ''", "one line"),
    "two lines of text": (swap('ref = "v0.8.3"', r'ref = "a\nb"'), "ref =", "vllm.ref", "one line"),
    "newer schema": (
        swap("schema = 1", "schema = 2\nnew_key = 1"),
        "schema = 2",
        "schema 2 is not 1",
        "version that wrote",
    ),
    "day for date": (
        regex(r"2025-07-30T[^\n]*", "2025-07-30"),
        "date = 2025-07-30",
        "fork.date",
        "expected `datetime`",
    ),
    "date without time zone": (
        swap("20:54-07:00", "20:54"),
        "date = 2025",
        "no time zone",
        "append Z",
    ),
    "time for day": (
        swap("date = 2026-01-02", "date = 2026-01-02T03:04:05Z"),
        "date = 2026",
        "date",
        "expected `date`",
    ),
    "path upwards": (
        value("input", '"../../etc/passwd"'),
        "input =",
        "python.input is '../../etc",
        "below the folder",
    ),
    "path upwards in the middle": (
        value("input", '"a/../../x"'),
        "input =",
        "python.input is",
        "below the folder",
    ),
    "absolute path": (
        value("build", '"/etc/passwd"'),
        "build =",
        "python.build is",
        "below the folder",
    ),
    "path with a line break": (
        value("build", r'"x\\nb"'),
        "build =",
        "python.build is",
        "below the folder",
    ),
    "recipe path upwards": (
        value("paths", '["templates", "../x"]'),
        "paths =",
        "recipe.paths[1] is '../x'",
        "below the folder",
    ),
    "recipe path upwards, on its own line": (
        value("paths", '[\n  "templates",\n  "../x",\n]'),
        "paths =",
        "recipe.paths[1] is '../x'",
        "below the folder",
    ),
    "submodule path upwards": (
        value("path", '"../x"'),
        "path =",
        "submodule.path is '../x'",
        "below the folder",
    ),
    "ssh URL": (value("url", '"git@github.com:a/b"'), "url =", "fork.url is", "https://"),
    "http URL": (value("url", '"http://github.com/a/b"'), "url =", "fork.url is", "https://"),
    "URL that runs a command": (
        value("url", '"ext::sh -c id"'),
        "url =",
        "fork.url is",
        "https://",
    ),
    "Python version": (
        swap('"3.11"', '"3"'),
        'version = "3"',
        "python.version is '3'",
        "such as 3.11",
    ),
    "image with a line break": (
        value("image", r'"debian\\nRUN id"'),
        "image =",
        "base.image is",
        "name and tag",
    ),
    "image with its digest": (
        value("image", f'"debian@sha256:{"c" * 64}"'),
        "image =",
        "base.image is",
        "name and tag",
    ),
    "wheel of another version": (
        swap('version = "0.8.3"', 'version = "0.8.4"'),
        "filename =",
        "is not a wheel of vllm 0.8.4",
        "must agree",
    ),
    "wheel of a longer name": (
        value("filename", '"vllm-extra-0.8.3-cp38-abi3-any.whl"'),
        "filename =",
        "is not a wheel",
        "must agree",
    ),
    "wheel elsewhere": (
        value("filename", '"vllm-0.8.3-/../../../x.whl"'),
        "filename =",
        "wheel.filename is",
        "letters, digits",
    ),
    "wheel name with an option": (
        value("name", r'"vllm\\n--index-url http://evil"'),
        "name =",
        "wheel.name is",
        "letters, digits",
    ),
    "repo without owner": (
        value("repo", '"model"'),
        "repo =",
        "weights[0].repo is 'model'",
        "owner/name",
    ),
    "revision and unpinned": (
        swap("unpinned =", f'revision = "{"e" * 40}"\nunpinned ='),
        'repo = "bosonai/hubert_base"',
        "exactly one of revision and unpinned",
        "pin it",
    ),
    "neither revision nor unpinned": (
        regex(r"unpinned[^\n]*\n", ""),
        'repo = "bosonai/hubert_base"',
        "exactly one of",
        "pin it",
    ),
    "role twice": (
        swap('role = "audio-tokenizer"', 'role = "generation"'),
        'role = "generation"\nrepo = "bosonai/tok',
        "the role generation is already used",
        "once",
    ),
    "empty file": (lambda _: "", "", "schema is missing", "add schema"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_line_and_remedy(project: Project, name: str) -> None:
    edit, line, message, remedy = REFUSED[name]
    text = edit(project.text)
    error = refuse(project, text.encode())
    number = text[: text.rindex(line) if name.startswith("dup") else text.index(line)].count("\n")
    place = re.match(r"(.*):(\d+): ", error.message)
    assert place, error.message
    assert place[1] == str(project.workspace.lock_file)
    assert int(place[2]) == number + 1 or line in text.split("\n")[int(place[2]) - 1], error.message
    assert message in error.message
    assert remedy in error.hint


def test_password_in_a_url_is_refused_and_not_shown(project: Project) -> None:
    error = refuse(project, project.text.replace(HOST, "https://user:s3cret@git.invalid/").encode())
    assert "fork.url is 'https://***@git.invalid/fork.git'" in error.message
    assert "s3cret" not in error.message + error.hint
    assert "without credentials" in error.hint


def test_not_utf8(project: Project) -> None:
    data = project.text.encode()
    line = data[: data.index(b"# Weights")].count(b"\n") + 1
    error = refuse(project, data.replace(b"# Weights", b"# W\xe9ights"))
    assert error.message.endswith(f"versions.lock:{line}: this is not UTF-8")


def test_missing_and_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(LockError, match="does not exist"):
        lockfile.load(tmp_path / "versions.lock")
    (tmp_path / "folder.lock").mkdir()
    with pytest.raises(LockError, match="cannot be read"):
        lockfile.load(tmp_path / "folder.lock")


def test_loaded_values(project: Project) -> None:
    loaded = project.load()
    assert loaded.fork.epoch == 1753917654
    assert loaded.base.reference == f"debian:bookworm-slim@sha256:{'c' * 64}"
    assert loaded.sha256 == sha256_file(project.workspace.lock_file)
    assert loaded.tag == f"20260102-{loaded.fork.commit[:7]}-{loaded.sha256[:7]}"
    assert loaded.weights_for("generation").repo == "bosonai/model"
    assert loaded.file("a/b") == project.workspace.lock_file.parent / "a/b"


def test_wheel_names_are_compared_normalised(project: Project) -> None:
    project.replace('name = "vllm"', 'name = "Higgs-Stand.in"')
    project.replace('"vllm-0.8.3-', '"higgs_stand_in-0.8.3-')
    assert project.load().wheel.name == "Higgs-Stand.in"


def test_unknown_role_of_weights_is_refused(project: Project) -> None:
    with pytest.raises(LockError, match=r"versions\.lock: no weights have the role 'x'"):
        project.load().weights_for("x")


# --- covered files


def test_a_consistent_lock_is_not_written(project: Project) -> None:
    loaded = project.load()
    assert lockfile.differences(loaded, PROJECT) == []
    lockfile.require_consistent(loaded, PROJECT)
    before = project.workspace.lock_file.stat()
    assert lockfile.refresh(loaded, PROJECT) == []
    assert project.workspace.lock_file.stat() == before


COVERED = {
    "requirements/input.txt": "python.input_sha256",
    "requirements/requirements.txt": "python.requirements_sha256",
    "requirements/build.txt": "python.build_sha256",
    "requirements/installer.txt": "python.installer_sha256",
}


@pytest.mark.parametrize("name", COVERED)
def test_a_changed_file_is_named(project: Project, name: str) -> None:
    loaded = project.load()
    path = loaded.file(name)
    path.write_text("changed\n")
    [found] = lockfile.differences(loaded, PROJECT)
    assert found == lockfile.Difference(COVERED[name], found.locked, sha256_bytes(b"changed\n"))
    with pytest.raises(LockError, match=re.escape(COVERED[name])) as caught:
        lockfile.require_consistent(loaded, PROJECT)
    assert "./inv lock" in caught.value.hint


def recipe_tag(project: Project, root: Path) -> str:
    """Lock the recipe below `root`, and return the tag."""
    lockfile.refresh(project.load(), root)
    return project.load().tag


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A recipe: a template with a module beside it."""
    files = {"templates/Dockerfile.j2": "FROM scratch\n", "templates/lib/step.py": "x = 1\n"}
    write(tmp_path / "root", files)
    return tmp_path / "root"


@pytest.mark.parametrize("name", ["templates/README.md", "templates/lib/notes.md"])
def test_an_edit_of_documentation_gives_the_same_tag(
    project: Project, root: Path, name: str
) -> None:
    before = recipe_tag(project, root)
    write(root, {name: "What the templates do.\n"})
    assert lockfile.differences(project.load(), root) == []
    assert recipe_tag(project, root) == before


def test_an_edit_of_the_recipe_gives_another_tag(project: Project, root: Path) -> None:
    before = recipe_tag(project, root)
    write(root, {"templates/lib/step.py": "x = 2\n"})
    assert [x.key for x in lockfile.differences(project.load(), root)] == ["recipe.sha256"]
    assert recipe_tag(project, root) != before


def test_comments_in_what_was_asked_for_give_the_same_tag(project: Project) -> None:
    path = project.load().file("requirements/input.txt")
    path.write_text("torch>=2\nsix\n")
    lockfile.refresh(project.load(), PROJECT)
    before = project.load().tag
    path.write_text("# why\n\ntorch>=2  # top: everywhere\nsix\n")
    assert lockfile.refresh(project.load(), PROJECT) == []
    assert project.load().tag == before
    path.write_text("torch>=2.1\nsix\n")
    assert lockfile.differences(project.load(), PROJECT)


def test_the_real_recipe_is_what_the_image_contains() -> None:
    real = lockfile.load(PROJECT / "versions.lock")
    files = [x for path in real.recipe.paths for x in lockfile.recipe_files(PROJECT / path)]
    names = {x.relative_to(PROJECT).parts[:2] for x in files}
    assert ("docker", "requirements") not in names, "each has its own hash in [python]"
    assert {x.suffix for x in files} <= {
        ".py", ".sh", ".txt", ".toml", ".j2", "", ".css", ".html", ".js", ".svg"
    }  # fmt: skip


def test_a_changed_recipe_is_named(project: Project, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "templates").mkdir(parents=True)
    (root / "templates/Dockerfile.j2").write_text("FROM scratch\n")
    [found] = lockfile.differences(project.load(), root)
    assert found.key == "recipe.sha256"


@pytest.mark.parametrize(("name", "key"), [(n, k.split("_")[0]) for n, k in COVERED.items()])
def test_an_absent_file_is_named_with_its_line(project: Project, name: str, key: str) -> None:
    loaded = project.load()
    loaded.file(name).unlink()
    key = key.removeprefix("python.")
    line = project.text[: project.text.index(f'\n{key} = "')].count("\n") + 2
    with pytest.raises(LockError) as caught:
        lockfile.differences(loaded, PROJECT)
    assert f"versions.lock:{line}: " in caught.value.message
    assert name in caught.value.message


def test_an_absent_recipe_path_is_named(project: Project, tmp_path: Path) -> None:
    with pytest.raises(LockError, match="templates does not exist"):
        lockfile.differences(project.load(), tmp_path)


# --- refresh


def refreshed(project: Project) -> tuple[str, str]:
    """Change every covered file and take it in; returns the text before and after."""
    for name in COVERED:
        project.load().file(name).write_text(f"changed {name}\n")
    data = project.workspace.lock_file.read_bytes()
    assert len(lockfile.refresh(project.load(), PROJECT)) == len(COVERED)
    assert lockfile.differences(project.load(), PROJECT) == []
    return data.decode(), project.workspace.lock_file.read_bytes().decode()


def test_refresh_changes_hashes_and_date_and_nothing_else(project: Project) -> None:
    before, after = refreshed(project)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    names = "|".join(k.split(".")[1] for k in COVERED.values())
    expected = re.sub(r"^date = 2026-01-02", f"date = {today}", before, flags=re.MULTILINE)

    def actual(match: re.Match[str]) -> str:
        key = match[1].removesuffix("_sha256")
        return f'{match[1]} = "{sha256_bytes(f"changed requirements/{key}.txt{chr(10)}".encode())}"'

    expected = re.sub(rf'^({names}) = "\w+"', actual, expected, flags=re.MULTILINE)
    assert after == expected
    assert project.load().tag.startswith(today.replace("-", ""))


@pytest.mark.parametrize(
    "edit",
    [
        lambda t: t.replace("\n", "\r\n"),
        lambda t: re.sub(r'^(input_sha256) = ("\w+")', r"\1  =\t\2\t# why", t, flags=re.MULTILINE),
        lambda t: re.sub(r'^(input_sha256) = "(\w+)"', r"\1='\2'", t, flags=re.MULTILINE),
        lambda t: t.replace("# Weights.", "# \u2028 Weights\u0085"),
        lambda t: t.replace("\n", "\r\n").rstrip(),
    ],
)
def test_refresh_keeps_every_other_byte(project: Project, edit: Edit) -> None:
    project.workspace.lock_file.write_bytes(edit(project.text).encode())
    before, after = refreshed(project)

    def blank(text: str) -> str:
        text = re.sub(r"\b\d{4}-\d\d-\d\d( # part)", r"DATE\1", text)
        return re.sub(r"(_sha256\s*=\s*)[\"']\w{64}[\"']", r"\1HASH", text)

    assert blank(after) == blank(before)
    assert after != before


def test_refresh_edits_keys_of_an_inline_table(project: Project) -> None:
    table = re.search(r"\[python\]\n(.*?)\n\n", project.text, re.DOTALL)
    assert table
    inline = "python = { " + ", ".join(table[1].split("\n")) + " }\n"
    text = project.text.replace(table[0], "").replace("[fork]", inline + "[fork]")
    project.workspace.lock_file.write_text(text)
    digest = project.load().python.input_sha256
    project.load().file("requirements/input.txt").write_text("changed\n")
    lockfile.refresh(project.load(), PROJECT)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    expected = text.replace(digest, sha256_bytes(b"changed\n")).replace("2026-01-02", today)
    assert project.text == expected


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False])
def test_a_new_key_is_added_at_the_end_of_its_table(
    project: Project, newline: str, last: bool
) -> None:
    table = '[patches]\nfolder = "patches"\n\n[patches.sha256]\nfirst = "' + 64 * "1" + '"\n'
    text = project.text + "\n" + table.rstrip("\n")
    if not last:
        text = project.text.replace("# Weights.", table + "\n# Weights.")
    project.workspace.lock_file.write_bytes(text.replace("\n", newline).encode())
    lockfile.write(project.workspace.lock_file, {"patches.sha256.second": 64 * "2"})
    line = f'first = "{64 * "1"}"{newline if not last else chr(10)}second = "{64 * "2"}"'
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    expected = text.replace("\n", newline).replace("2026-01-02", today)
    expected = expected.replace(f'first = "{64 * "1"}"', line)
    assert project.workspace.lock_file.read_bytes().decode() == expected


def test_an_edit_of_the_real_lock_keeps_every_other_byte(tmp_path: Path) -> None:
    path = tmp_path / "versions.lock"
    text = (PROJECT / "versions.lock").read_text()
    path.write_text(text)
    lock = lockfile.load(path)
    values = {
        "fork.commit": (lock.fork.commit, 40 * "a"),
        "base.digest": (lock.base.digest, f"sha256:{64 * 'b'}"),
        "weights[1].revision": (str(lock.weights[1].revision), 40 * "c"),
        "recipe.sha256": (lock.recipe.sha256, 64 * "d"),
    }
    new = lockfile.write(path, {key: value for key, (_, value) in values.items()})
    for old, value in [*values.values(), (f"\ndate = {lock.date}", f"\ndate = {new.date}")]:
        text = text.replace(old, value)
    assert path.read_text() == text


def test_an_edit_that_breaks_a_rule_is_refused(project: Project) -> None:
    before = project.text
    with pytest.raises(LockError, match=r"versions\.lock:\d+: fork\.commit is 'abc'"):
        lockfile.write(project.workspace.lock_file, {"fork.commit": "abc"})
    assert project.text == before


def test_refresh_is_whole_or_not_at_all(project: Project) -> None:
    """Killed while it writes the new file: the old one is there, and the next run succeeds."""
    project.load().file("requirements/input.txt").write_text("changed")
    before = project.text
    script = (
        "import os, sys; from pathlib import Path; from higgs_image import lockfile\n"
        "def die(self, data):\n"
        "    with self.open('wb') as file: file.write(data[:99])\n"
        "    os.kill(os.getpid(), 9)\n"
        "Path.write_bytes = die\n"
        "lockfile.refresh(lockfile.load(Path(sys.argv[1])), Path(sys.argv[2]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, project.workspace.lock_file, PROJECT], cwd=PROJECT
    )
    assert done.returncode == -9
    assert project.text == before
    assert len(lockfile.refresh(project.load(), PROJECT)) == 1
    assert sorted(p.name for p in project.workspace.lock_file.parent.iterdir()) == [
        "layers.toml", "requirements", "versions.lock",
    ]  # fmt: skip


# --- the real file


def test_the_real_lock_loads() -> None:
    real = lockfile.load(PROJECT / "versions.lock")
    assert real.fork.url == "https://github.com/boson-ai/higgs-audio-vllm"
    assert {"csrc", "cmake", "CMakeLists.txt"} <= set(real.vllm.trees)
    assert real.python.version == "3.11"
    assert real.weights_for("semantic-model").unpinned
    assert re.fullmatch(r"\d{8}-[0-9a-f]{7}-[0-9a-f]{7}", real.tag)


def test_the_real_lock_is_consistent_with_the_files_of_this_checkout() -> None:
    """Fails after any change of a recipe or requirements file until `./inv lock` was run."""
    lockfile.require_consistent(lockfile.load(PROJECT / "versions.lock"), PROJECT)
