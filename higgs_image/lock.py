"""versions.lock: every pin of the image, what was asked for beside what was locked.

The file is TOML, read strictly: an unknown or repeated key, a short hash or a digest without its
algorithm is refused with the line and the remedy. It also records hashes of the files that decide
what is in the image (the requirements and the recipe), so that its own hash names the content.
"""

from __future__ import annotations

import datetime
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any

import msgspec

from higgs_image.errors import LockError
from higgs_image.hashing import sha256_bytes, sha256_file, tree_sha256

SCHEMA = 1


def _matching(pattern: str, remedy: str) -> msgspec.Meta:
    """Return a rule for a string. Values reach files and commands: none holds a line break."""
    _REMEDY[pattern] = remedy
    return msgspec.Meta(pattern=pattern)


_REMEDY: dict[str, str] = {}

Commit = Annotated[
    str, _matching(r"^[0-9a-f]{40}\Z", "write the full 40 hexadecimal digits of the git object id")
]
Sha256 = Annotated[
    str, _matching(r"^[0-9a-f]{64}\Z", "write the full 64 hexadecimal digits of the SHA-256")
]
Digest = Annotated[
    str,
    _matching(r"^sha256:[0-9a-f]{64}\Z", "write the digest as sha256: and 64 hexadecimal digits"),
]
GitUrl = Annotated[
    str,
    _matching(
        r"^(https|file)://[^\s@]+\Z", "write an https:// (or file://) URL without credentials"
    ),
]
RelativePath = Annotated[
    str,
    _matching(r"^(?!/)(?!.*\.\.)[^\s]+\Z", "write a path below the folder of versions.lock"),
]
PyVersion = Annotated[str, _matching(r"^3\.\d+\Z", "write major and minor version, such as 3.11")]
ImageName = Annotated[
    str, _matching(r"^\w[\w.:/-]*\Z", "write name and tag, such as debian:bookworm-slim")
]
AptLine = Annotated[
    str,
    _matching(
        r"^deb( \[[\w =./-]+\])? https?://[^\s@]+ [\w./-]+( [\w-]+)+\Z",
        "write it as apt has it, without credentials: deb http://host/archive suite main",
    ),
]
Word = Annotated[str, _matching(r"^\w[\w.+!-]*\Z", "use letters, digits and any of . _ + ! - only")]
HubName = Annotated[str, _matching(r"^[\w.-]+/[\w.-]+\Z", "write owner/name")]
Text = Annotated[str, _matching(r"^[^\x00-\x1f\x7f]+\Z", "write one line that is not empty")]


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Fork(_Table, frozen=True):
    """The fork of vLLM that holds the speech server.

    Attributes:
        url: where it is cloned from.
        ref: the branch that was asked for.
        commit: what that was resolved to.
        tree: git's tree id of that commit: proves a checkout from its files alone.
        date: the commit's date; the image's creation date and SOURCE_DATE_EPOCH.
        hold: why `invoke lock --update` leaves it alone unless it is named.
    """

    url: GitUrl
    ref: Text
    commit: Commit
    tree: Commit
    date: datetime.datetime
    hold: Text | None = None

    @property
    def epoch(self) -> int:
        """The commit's date in seconds since 1970, UTC."""
        return int(self.date.timestamp())


class VllmBase(_Table, frozen=True):
    """The vLLM release that the fork is based on.

    Attributes:
        ref: the release's tag.
        commit: what that was resolved to.
        trees: git ids, at that commit, of everything that is compiled. The fork's must be equal,
            or the prebuilt wheel would not hold its kernels.
    """

    ref: Text
    commit: Commit
    trees: dict[str, Commit]


class Submodule(_Table, frozen=True):
    """The fork's submodule, whose package `boson_multimodal` holds the audio tokenizer."""

    path: RelativePath
    url: GitUrl
    commit: Commit
    tree: Commit


class Wheel(_Table, frozen=True):
    """The prebuilt wheel that the fork's Python is laid over."""

    requirement: Text
    name: Word
    version: Word
    filename: Word
    sha256: Sha256


class BaseImage(_Table, frozen=True):
    """The image that the build starts from. `hold`: as in `Fork`."""

    image: ImageName
    digest: Digest
    hold: Text | None = None

    @property
    def reference(self) -> str:
        """`image@digest`: the tag stays readable, the digest decides."""
        return f"{self.image}@{self.digest}"


class Python(_Table, frozen=True):
    """The interpreter's version, and the locked sets of packages.

    Attributes:
        version: major and minor version of the image's Python.
        input: what was asked for, by hand, each line with its reason.
        requirements: what that was resolved to, with hashes: all that is in the image.
        build: what builds the packages that are published as source only.
        installer: what installs them all; never in the image.
        hold: as in `Fork`.
    """

    version: PyVersion
    input: RelativePath
    input_sha256: Sha256
    requirements: RelativePath
    requirements_sha256: Sha256
    build: RelativePath
    build_sha256: Sha256
    installer: RelativePath
    installer_sha256: Sha256
    hold: Text | None = None


class Weights(_Table, frozen=True):
    """A weights repository on the Hugging Face hub; weights are never in the image.

    Attributes:
        repo: owner and name.
        role: what the server uses it for.
        revision: the pinned commit; absent only where `unpinned` says why.
        unpinned: why there is no revision yet.
        hold: as in `Fork`.
    """

    repo: HubName
    role: Text
    revision: Commit | None = None
    unpinned: Text | None = None
    hold: Text | None = None


class Recipe(_Table, frozen=True):
    """Hash of the templates and of everything of ours that goes into a container."""

    paths: list[RelativePath]
    sha256: Sha256


class Patches(_Table, frozen=True):
    """Our functions in the place of the fork's.

    Attributes:
        folder: the Python package that holds them.
        sha256: hash of each patch's module, by its name.
    """

    folder: RelativePath
    sha256: dict[str, Sha256]


class Debian(_Table, frozen=True):
    """Where Debian's packages come from, if not from the base image's own sources.

    Attributes:
        snapshot: lines of apt's sources.list that name one moment of the archive, such as those
            of its snapshot service. With them two builds get the same packages on any day.
    """

    snapshot: list[AptLine]


class Project(_Table, frozen=True):
    """Who releases the image.

    Attributes:
        url: the repository; becomes the image's source label, by which ghcr.io links the package
            to it. It is here and not taken from the checkout: so the digest does not depend on
            who builds.
    """

    url: GitUrl


class _File(_Table, frozen=True):
    schema: int
    date: datetime.date
    fork: Fork
    vllm: VllmBase
    submodule: Submodule
    wheel: Wheel
    base: BaseImage
    python: Python
    weights: list[Weights]
    recipe: Recipe
    patches: Patches | None = None
    project: Project | None = None
    debian: Debian | None = None


class Lock(_File, frozen=True):
    """The decoded versions.lock.

    Attributes:
        path: the file.
        sha256: hash of its bytes; its first seven digits are part of every immutable tag.
    """

    path: Path = Path()
    sha256: str = ""

    @property
    def tag(self) -> str:
        """The immutable tag: date of the lock, fork and lock in seven digits each."""
        return f"{self.date:%Y%m%d}-{self.fork.commit[:7]}-{self.sha256[:7]}"

    def file(self, relative: str) -> Path:
        """Return the path of a file that the lock names."""
        return self.path.parent / relative

    def weights_for(self, role: str) -> Weights:
        """Return the weights repository with this role."""
        for entry in self.weights:
            if entry.role == role:
                return entry
        raise LockError(
            f"{self.path}: no weights have the role {role!r}", "add them in a [[weights]] table"
        )


class Difference(msgspec.Struct, frozen=True):
    """One place where the lock and the files it covers differ."""

    key: str
    locked: str
    actual: str


def load(path: Path) -> Lock:
    """Read and check versions.lock.

    Raises:
        LockError: the file is missing, is no TOML, or breaks a rule; the message has file and
            line, the hint the remedy.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise LockError(
            f"{path} does not exist", "restore it from git: every stage starts from it"
        ) from None
    except OSError as error:
        raise LockError(f"{path} cannot be read: {error}", "restore it from git") from None
    try:
        text = data.decode()
        raw = tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise LockError(f"{path}:{line}: this is not UTF-8", "restore it from git") from None
    except tomllib.TOMLDecodeError as error:
        what, _, where = str(error).partition(" (at ")
        found = re.match(r"line (\d+)", where)
        line = int(found[1]) if found else text.rstrip("\n").count("\n") + 1
        raise LockError(
            f"{path}:{line}: {what}", "correct that line, or restore the file from git"
        ) from None
    if isinstance(raw.get("schema"), int) and raw["schema"] != SCHEMA:
        raise LockError(
            f"{path}:{_line_of(text, 'schema')}: schema {raw['schema']} is not {SCHEMA}",
            "use the pipeline's version that wrote this file",
        )
    try:
        file = msgspec.convert(raw, _File)
    except msgspec.ValidationError as error:
        raise _explain(path, text, raw, str(error)) from None
    lock = Lock(
        **{field: getattr(file, field) for field in _File.__struct_fields__},
        path=path,
        sha256=sha256_bytes(data),
    )
    _check_rules(lock, text)
    return lock


def _check_rules(lock: Lock, text: str) -> None:
    """Rules that a type cannot express."""

    def refuse(key: str, message: str, hint: str) -> LockError:
        return LockError(f"{lock.path}:{_line_of(text, key)}: {message}", hint)

    if lock.fork.date.tzinfo is None:
        raise refuse("fork.date", f"{lock.fork.date} has no time zone", "append Z or an offset")
    if not lock.vllm.trees:
        raise refuse(
            "vllm.trees",
            "no compiled part is named",
            "name at least csrc, cmake and CMakeLists.txt with their git ids",
        )
    name, *rest = lock.wheel.filename.split("-")
    if _normal(name) != _normal(lock.wheel.name) or rest[:1] != [lock.wheel.version]:
        raise refuse(
            "wheel.filename",
            f"{lock.wheel.filename} is not a wheel of {lock.wheel.name} {lock.wheel.version}",
            "name, version and file name must agree",
        )
    roles = [entry.role for entry in lock.weights]
    for index, entry in enumerate(lock.weights):
        if entry.role in roles[:index]:
            raise refuse(
                f"weights[{index}].role",
                f"the role {entry.role} is there already",
                "name each role once",
            )
        if (entry.revision is None) == (entry.unpinned is None):
            raise refuse(
                f"weights[{index}].repo",
                f"{entry.repo} needs exactly one of revision and unpinned",
                "pin it with revision, or say in unpinned why that is not possible yet",
            )


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "_", name).lower()


def differences(lock: Lock, root: Path) -> list[Difference]:
    """Compare the lock with the files that it covers.

    Args:
        lock: the lock.
        root: the project's folder, below which the recipe lies.
    """
    actual = _covered(lock, root)
    locked = {
        "python.input_sha256": lock.python.input_sha256,
        "python.requirements_sha256": lock.python.requirements_sha256,
        "python.build_sha256": lock.python.build_sha256,
        "python.installer_sha256": lock.python.installer_sha256,
        "recipe.sha256": lock.recipe.sha256,
    } | {f"{_PATCH}{name}": sha256 for name, sha256 in _patches(lock).items()}
    return [
        Difference(key, locked.get(key, _NONE), actual.get(key, _NONE))
        for key in [*locked, *(key for key in actual if key not in locked)]
        if locked.get(key) != actual.get(key)
    ]


_PATCH = "patches.sha256."
_NONE = "none"


def _patches(lock: Lock) -> dict[str, str]:
    return lock.patches.sha256 if lock.patches else {}


def _covered(lock: Lock, root: Path) -> dict[str, str]:
    paths = [root / name for name in lock.recipe.paths]
    files = {
        "python.input": lock.python.input,
        "python.requirements": lock.python.requirements,
        "python.build": lock.python.build,
        "python.installer": lock.python.installer,
    }
    for key, path in [
        *((k, lock.file(v)) for k, v in files.items()),
        *(("recipe.paths", p) for p in paths),
    ]:
        if not path.exists():
            line = _line_of(lock.path.read_text(), key)
            raise LockError(
                f"{lock.path}:{line}: {path} does not exist",
                "restore it from git, or correct the path",
            )
    hashes = {f"{key}_sha256": sha256_file(lock.file(name)) for key, name in files.items()}
    if lock.patches:
        from higgs_image import patches

        found = patches.load(lock.file(lock.patches.folder))
        hashes |= {f"{_PATCH}{patch.name}": patch.sha256 for patch in found}
    return hashes | {"recipe.sha256": tree_sha256(paths, root)}


def require_consistent(lock: Lock, root: Path) -> None:
    """Refuse a lock that does not match the files that it covers.

    Raises:
        LockError: naming each difference.
    """
    found = differences(lock, root)
    if found:
        raise LockError(
            f"{lock.path} does not match the files it covers: "
            + "; ".join(f"{d.key} is {d.actual[:12]}..., locked {d.locked[:12]}..." for d in found),
            "undo the change, or take it into the lock with: invoke lock",
        )


def refresh(lock: Lock, root: Path) -> list[Difference]:
    """Write the hashes of the covered files into versions.lock; nothing else is touched.

    The date, which is part of the tag, becomes today's when something changed.

    Returns:
        What was changed.
    """
    found = differences(lock, root)
    if found:
        text = lock.path.read_bytes().decode()
        for difference in found:
            if difference.key.startswith(_PATCH):
                text = _record_patch(lock.path, text, difference)
            else:
                text = _replace(lock.path, text, difference.key, f'"{difference.actual}"')
        today = datetime.datetime.now(datetime.UTC).date()
        text = _replace(lock.path, text, "date", today.isoformat())
        beside = lock.path.with_name(lock.path.name + ".new")
        beside.write_bytes(text.encode())
        load(beside)
        beside.replace(lock.path)
    return found


# Where a key stands. tomllib tells no lines, and the file is ours: tables, keys, single lines.
_TABLE = re.compile(r"^\s*\[(\[?)\s*([\w.\"-]+)\s*\]")
_KEY = re.compile(r"^\s*(?:\"([^\"]+)\"|([\w.-]+))\s*=")
_VALUE = re.compile(r"(=\s*)(\"[^\"]*\"|'[^']*'|[^\s#]+)")


def _lines(text: str) -> dict[str, int]:
    found: dict[str, int] = {}
    prefix, counts = "", dict[str, int]()
    for number, line in enumerate(text.split("\n"), start=1):
        if table := _TABLE.match(line):
            prefix = table[2]
            if table[1]:
                index = counts[prefix] = counts.get(prefix, -1) + 1
                prefix = f"{prefix}[{index}]"
            found.setdefault(prefix, number)
            prefix += "."
        elif key := _KEY.match(line):
            found.setdefault(prefix + (key[1] or key[2]), number)
    return found


def _line_of(text: str, key: str) -> int:
    """Return the line of a key, or else of what it is in (a list, a table, the file)."""
    lines = _lines(text)
    while key and key not in lines:
        key = re.sub(r"(^|\.|\[)[^.\[]*$", "", key)
    return lines.get(key, 1)


def _replace(path: Path, text: str, key: str, value: str) -> str:
    lines = text.split("\n")
    number = _lines(text).get(key)
    if number is None:
        raise LockError(
            f"{path}:{_line_of(text, key)}: {key} is not on a line of its own",
            "write tables as [table] and each key on its own line",
        )
    lines[number - 1] = _VALUE.sub(lambda old: old[1] + value, lines[number - 1], count=1)
    return "\n".join(lines)


def set_value(path: Path, text: str, key: str, value: str) -> str:
    """Return the text of versions.lock with another value; the line loses its comment.

    A revision takes the place of the line that says why there is none yet.
    """
    name = key.rpartition(".")[2]
    lines = text.split("\n")
    known = _lines(text)
    number = known.get(key) or known.get(re.sub(r"revision$", "unpinned", key))
    if number is None:
        return _replace(path, text, key, value)  # which says what is wrong
    lines[number - 1] = f"{name} = {value}" if name == "date" else f'{name} = "{value}"'
    return "\n".join(lines)


def _record_patch(path: Path, text: str, difference: Difference) -> str:
    """Change, add or remove the line of one patch; added ones go to the end of the table."""
    if _NONE not in (difference.locked, difference.actual):
        return _replace(path, text, difference.key, f'"{difference.actual}"')
    found, lines = _lines(text), text.split("\n")
    if difference.actual == _NONE:
        del lines[found[difference.key] - 1]
    else:
        below = [number for key, number in found.items() if key.startswith(_PATCH)]
        table = found.get(_PATCH.rstrip("."))
        if table is None:
            raise LockError(
                f"{path}:{_line_of(text, _PATCH)}: there is no table [patches.sha256]",
                "write it, empty, below [patches]",
            )
        name = difference.key.removeprefix(_PATCH)
        lines.insert(max([table, *below]), f'{name} = "{difference.actual}"')
    return "\n".join(lines)


def _explain(path: Path, text: str, raw: dict[str, Any], reason: str) -> LockError:
    """Turn msgspec's `reason - at $.a.b` into file, line and remedy."""
    message, _, where = reason.partition(" - at `$.")
    where = where.rstrip("`")
    key = re.sub(r"\[\.\.\.\]", "", where)
    if unknown := re.search(r"unknown field `(.+)`", message):
        table = re.sub(r"^\$", "", where)
        key = f"{table}.{unknown[1]}" if table else unknown[1]
        return LockError(
            f"{path}:{_line_of(text, key)}: unknown key {unknown[1]}",
            "remove it: a key that nothing reads is a typing error",
        )
    if missing := re.search(r"missing required field `(.+)`", message):
        name = f"{where}.{missing[1]}" if where else missing[1]
        return LockError(
            f"{path}:{_line_of(text, where)}: {name} is missing", f"add {missing[1]} = ..."
        )
    pattern = next((x for x in _REMEDY if f"matching regex {x!r}" in message), "")
    value: Any = raw
    for step in re.findall(r"[^.\[\]]+", key):
        value = value[int(step)] if isinstance(value, list) else value[step]
    if isinstance(value, dict) and where.endswith("[...]"):  # msgspec does not say which of them
        bad = [k for k, v in value.items() if not isinstance(v, str) or not re.match(pattern, v)]
        key = where = f"{key}.{bad[0]}"
        value = value[bad[0]]
    shown = f" is {value!r}" if isinstance(value, str | int | float) else ""
    shown = re.sub(r"//[^/\s]*@", "//***@", shown)  # a password may stand there
    return LockError(
        f"{path}:{_line_of(text, key)}: {where}{shown}",
        _REMEDY.get(pattern) or f"correct it: {message[0].lower()}{message[1:]}",
    )
