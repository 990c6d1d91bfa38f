"""The documentation: links, anchors, commands and paths."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest
from higgs_runtime import errors as runtime_errors
from invoke.collection import Collection
from invoke.parser.context import ParserContext
from invoke.parser.parser import Parser
from invoke.program import Program

from higgs_image import errors
from higgs_image.smoke.record import REQUIRED
from higgs_image.tasks import namespace
from higgs_image.workspace import PROJECT

PAGES = sorted(
    [*PROJECT.glob("*.md"), *PROJECT.glob("docs/**/*.md")], key=lambda path: path.as_posix()
)
TASKS = set(namespace.task_names)
LONGEST_README = 130
LONGEST_DECISION = 40

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda x: x.relative_to(PROJECT).as_posix())


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]+`", "", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to a page's headings."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    titles = [x.lower() for x in re.findall(r"^#+ (.+)$", prose, flags=re.M)]
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


def commands(text: str) -> list[str]:
    """Return every `./inv` command of a page, from code blocks and from inline code."""
    blocks = re.findall(r"^```(?:sh|console)\n(.*?)^```$", text, flags=re.M | re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))
    found = [re.search(r"^(?:\$ )?(?:\w+=\S+ )*(\./inv .+)$", x.strip()) for x in lines + inline]
    return [match[1] for match in found if match]


COMMANDS = sorted({command for page in PAGES for command in commands(page.read_text())})


@each_page
def test_relative_links_resolve(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        if re.match(r"https?://", link) or link.startswith("../../actions/"):
            continue  # the second: GitHub's own pages of this repository
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_linked() -> None:
    linked = {
        (page.parent / link.partition("#")[0]).resolve()
        for page in PAGES
        for link in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text()))
    }
    assert [x for x in PAGES if x.is_relative_to(PROJECT / "docs") and x not in linked] == [
        PROJECT / "docs" / "README.md"
    ]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command: str) -> None:
    words = shlex.split(command, comments=True)[1:]
    program = Program()
    core = ParserContext(args=[*program.core_args(), *program.task_args()])
    asked = Parser(initial=core, ignore_unknown=True).parse_argv(words)
    rest = asked.unparsed
    if not rest:  # a question about the tasks, such as --list
        assert words[0].startswith("--") and asked[0].args["help"].value in {None, *TASKS}
        return
    named = [namespace.tasks[word] for word in rest if word in namespace.tasks]
    assert rest[0] in namespace.tasks, "no such task, or an old name"
    contexts = Collection(*named).to_contexts()  # Invoke copies all that it may have to parse
    missing = len(contexts[0].missing_positional_args)
    if missing and not [x for x in rest[1:] if not x.startswith("-")]:
        rest += ["ARGUMENT"] * missing  # prose may name a task without its arguments
    assert not Parser(contexts=contexts).parse_argv(rest).unparsed


def test_every_task_is_documented() -> None:
    text = "".join(page.read_text() for page in PAGES)
    assert [x for x in sorted(TASKS) if f"./inv {x}" not in text] == []


def test_places_exist() -> None:
    table = (PROJECT / "README.md").read_text().partition("| place |")[2].partition("\n\n")[0]
    places = re.findall(r"`([\w./-]+)`", "\n".join(x.split("|")[1] for x in table.splitlines()[2:]))
    assert "versions.lock" in places
    assert [x for x in places if not (PROJECT / x).exists()] == []


def test_packages_are_described() -> None:
    text = (PROJECT / "docs" / "architecture.md").read_text()
    packages = {x.parent.name for x in (PROJECT / "higgs_image").glob("*/__init__.py")}
    described = set(re.findall(r"^\| `(\w+)` \|", text, flags=re.M)) | {"host"}
    assert packages <= described
    assert described - {"root"} <= packages


def listed(page: str, heading: str = "") -> set[str]:
    """Return the first column of the tables below a heading, code marks and commas removed."""
    text = (PROJECT / page).read_text().partition(heading)[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+) \|", text, flags=re.M)
    return {x for row in rows for x in row.replace("`", "").replace(",", "").split()}


def test_workflows_are_listed() -> None:
    names = {path.stem for path in PROJECT.glob(".github/workflows/*.yml")}
    assert names <= listed("README.md", "## In CI")
    assert names <= listed("docs/ci.md", "# CI")


def test_patches_are_listed() -> None:
    page = (PROJECT / "docs" / "patches.md").read_text()
    folder = PROJECT / "docker" / "patches" / "higgs_patches" / "patches"
    names = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert names <= listed("docs/patches.md", "## Proof")
    rows = page.partition("## Defects")[2].partition("\n## ")[0]
    assert [x for x in sorted(names) if f"`{x}`" not in rows] == []
    tests = set(re.findall(r"`(test_\w+\.py)`", rows))
    folders = [PROJECT / "tests" / "fork", PROJECT / "tests" / "unit" / "patches"]
    assert [x for x in sorted(tests) if not any((y / x).exists() for y in folders)] == []


def test_smoke_checks_are_listed() -> None:
    assert REQUIRED["gpu"] <= listed("docs/smoke-test.md", "## Checks")


@pytest.mark.parametrize(
    ("module", "heading"),
    [(errors, "## The commands"), (runtime_errors, "## The container")],
)
def test_exit_codes_are_listed(module: ModuleType, heading: str) -> None:
    codes = {str(x.exit_code) for x in vars(module).values() if hasattr(x, "exit_code")}
    assert len(codes) > 10
    assert codes - {"1"} <= listed("docs/exit-codes.md", heading)


def test_readme_is_short() -> None:
    text = (PROJECT / "README.md").read_text()
    assert len(text.splitlines()) <= LONGEST_README
    assert text.index("./inv demo") < text.index("## ")
    assert text.index("./inv test") < text.index("## ")


def test_decisions_are_short_and_listed() -> None:
    index = (PROJECT / "docs" / "adr" / "README.md").read_text()
    for page in PROJECT.glob("docs/adr/0*.md"):
        text = page.read_text()
        assert len(text.splitlines()) <= LONGEST_DECISION, page.name
        assert text.startswith(f"# {page.name[:4]}: ")
        assert f"]({page.name})" in index
        assert "## Context" in text and "onsequences" in text
