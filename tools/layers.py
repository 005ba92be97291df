"""The rules of the house, most of them about imports, as functions over parsed source: each gives its complaints, one line each.

Nothing is imported to find out: what a lazy or type-only import would do counts as well.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

LAYERS = ("backends", "actors", "runtime")
"""From the ground up: a layer imports itself and what stands before it."""

PURE = {
    "backends": (
        *("blobs.cid", "blobs.ref", "blobs.unixfs"),
        *("apply", "build", "codec", "commit", "cuts", "engine", "errors", "event", "facts", "faults", "filesystem", "frame", "image", "keys", "layered"),
        *("limits", "loading", "nodes", "pages", "recovery", "redo", "rest", "schema", "segment", "selector", "sql", "tables", "upkeep"),
    ),
    "actors": ("batch", "claim", "cursor", "fold", "mark", "restart", "ring", "snapshots"),
}
"""The pure halves: whoever reads only these knows what the system means."""

IMPURE = frozenset(
    {
        *("trio", "asyncio", "threading"),
        *("time", "random", "secrets"),
        *("os", "fcntl", "mmap", "shutil", "tempfile", "socket", "selectors", "subprocess"),
        *("lmdb", "sqlite3", "psycopg"),
    }
)
CLOCK_CALLS = frozenset({"now", "utcnow", "today"})
LINES_MAX = 600
IGNORE = re.compile(r"# *(type: *ignore|(ruff: *|flake8: *)?noqa)")
REASONED = re.compile(r"# type: ignore\[[a-z, -]+\]  # (?!noqa)\S|noqa: [A-Z0-9, ]+ - \S")


@dataclass(frozen=True)
class Import:
    """One imported name: `from module import name`, or `import module` with no name."""

    module: str
    name: str | None
    line: int
    runs: bool
    """False below `if TYPE_CHECKING:`."""

    @property
    def root(self) -> str:
        return self.module.partition(".")[0]


@dataclass(frozen=True)
class Source:
    """A parsed file under its import name."""

    name: str
    tree: ast.Module
    text: str
    is_package: bool = False

    @property
    def layer(self) -> str | None:
        parts = self.name.split(".")
        return parts[1] if parts[0] == "perdure" and len(parts) > 1 else None

    @property
    def lines(self) -> int:
        return self.text.count("\n") + 1


def parse(name: str, text: str, *, is_package: bool = False) -> Source:
    """The source *text* as module *name*."""
    return Source(name, ast.parse(text), text, is_package)


def read_folder(folder: Path, prefix: str) -> list[Source]:
    """Every module below *folder*, named from *prefix* on."""
    return [read_file(file, folder, prefix) for file in sorted(folder.rglob("*.py"))]


def read_file(file: Path, folder: Path, prefix: str) -> Source:
    """The module in *file*; a package's `__init__` goes by the package's name."""
    parts = file.relative_to(folder).with_suffix("").parts
    is_package = parts[-1] == "__init__"
    name = ".".join((prefix, *(parts[:-1] if is_package else parts)))
    return parse(name, file.read_text(encoding="utf-8"), is_package=is_package)


# -- what a module imports -------------------------------------------------------------------


def imports_of(source: Source) -> Iterator[Import]:
    """Every import of *source*, at any depth, those by a constant string included."""
    type_only = {id(node) for block in ast.walk(source.tree) if is_type_checking(block) for part in block.body for node in ast.walk(part)}
    for node in ast.walk(source.tree):
        runs = id(node) not in type_only
        match node:
            case ast.Import(names=names):
                yield from (Import(alias.name, None, node.lineno, runs) for alias in names)
            case ast.ImportFrom(names=names):
                module = absolute(source, node)
                yield from (Import(module, alias.name, node.lineno, runs) for alias in names)
            case ast.Call(func=func, args=[ast.Constant(value=str(module)), *_]) if called(func) in ("import_module", "__import__"):
                yield Import(module, None, node.lineno, runs)


def is_type_checking(node: ast.AST) -> TypeGuard[ast.If]:
    """Whether *node* is `if TYPE_CHECKING:`, by either spelling."""
    return isinstance(node, ast.If) and called(node.test) == "TYPE_CHECKING"


def called(node: ast.expr) -> str | None:
    """The last part of a name: `import_module` of `importlib.import_module`."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return None


def absolute(source: Source, node: ast.ImportFrom) -> str:
    """The module that *node* imports from, dots resolved."""
    if not node.level:
        return node.module or ""
    parts = source.name.split(".")
    base = parts[: len(parts) - node.level + source.is_package]
    return ".".join((*base, *filter(None, [node.module])))


def modules_of(found: Import, known: Mapping[str, Source]) -> str:
    """The module an import reaches: `from perdure.backends import codec` means the module `codec`."""
    below = f"{found.module}.{found.name}"
    return below if below in known else found.module


# -- the rules -------------------------------------------------------------------------------


def backward_imports(sources: Iterable[Source]) -> list[str]:
    """Imports point runtime -> actors -> backends, never back."""
    return [
        f"{source.name}:{found.line} imports {found.module}, which stands above it"
        for source in sources
        for found in imports_of(source)
        if source.layer in LAYERS and above(source.layer, found)
    ]


def above(layer: str, found: Import) -> bool:
    parts = f"{found.module}.{found.name}".split(".")
    return parts[0] == "perdure" and parts[1] in LAYERS and LAYERS.index(parts[1]) > LAYERS.index(layer)


def plain_names(sources: Iterable[Source]) -> list[str]:
    """The folders are imported as `perdure.x`, never as `x`: else a module is loaded twice."""
    return [
        f"{source.name}:{found.line} imports {found.root}: write perdure.{found.module}"
        for source in sources
        for found in imports_of(source)
        if found.root in LAYERS
    ]


def loaded_plainly(modules: Iterable[str]) -> list[str]:
    """Which of the loaded *modules* go by a folder's plain name."""
    return sorted(name for name in modules if name.partition(".")[0] in LAYERS)


def indirect_imports(sources: Iterable[Source]) -> list[str]:
    """Inside the layers a name is imported from the module that defines it, not from a layer's `__init__`."""
    known = {source.name: source for source in sources}
    return [
        f"{source.name}:{found.line} imports {found.name} from the package {found.module}: name the module that defines it"
        for source in known.values()
        for found in imports_of(source)
        if found.name and found.module in {f"perdure.{layer}" for layer in LAYERS} and modules_of(found, known) == found.module
    ]


def impure_halves(sources: Iterable[Source]) -> list[str]:
    """A pure half reaches no Trio, clock, disk, random or database, not through another module of ours either.

    What runs counts; a type-only import does not. (A package's `__init__` is not followed: it hands on public names.)
    """
    known = {source.name: source for source in sources}
    complaints = []
    for name in pure_names(known):
        complaints += [f"{name}: {why}" for why in impure_acts(known[name])]
        complaints += [f"{name}: {' -> '.join(chain)}" for chain in impure_chains(name, known)]
    return complaints


def pure_names(known: Mapping[str, Source]) -> list[str]:
    """Those of `PURE` that exist."""
    return [name for layer, halves in PURE.items() for half in halves if (name := f"perdure.{layer}.{half}") in known]


def impure_chains(start: str, known: Mapping[str, Source]) -> list[list[str]]:
    """The shortest ways from *start* to an impure module, one for each."""
    chains, found, seen = [[start]], [], {start}
    for chain in chains:  # grows while it is walked: breadth first
        for reached in (one for one in imports_of(known[chain[-1]]) if one.runs):
            target = reached.root if reached.root in IMPURE else modules_of(reached, known)
            if target in seen:
                continue
            seen.add(target)
            if target in IMPURE:
                found.append([*chain, target])
            elif target in known and not known[target].is_package:
                chains.append([*chain, target])
    return found


def impure_acts(source: Source) -> Iterator[str]:
    """Waiting, and asking `datetime` for the time."""
    for node in ast.walk(source.tree):
        match node:
            case ast.AsyncFunctionDef(name=name):
                yield f"line {node.lineno} defines the async function {name}: a pure half never waits"
            case ast.Call(func=ast.Attribute(value=value, attr=attr)) if attr in CLOCK_CALLS and called(value) in ("datetime", "date"):
                yield f"line {node.lineno} reads the clock ({attr}): `now` comes in as an argument"


def bare_events(sources: Iterable[Source]) -> list[str]:
    """`Event` is ours: Trio's is `trio.Event`, by its full name."""
    return [
        f"{source.name}:{found.line} imports Event from trio: write trio.Event"
        for source in sources
        for found in imports_of(source)
        if found.module == "trio" and found.name == "Event"
    ]


def long_files(sources: Iterable[Source]) -> list[str]:
    """A file is one noun: at most 600 lines."""
    return [f"{source.name} has {source.lines} lines, the limit is {LINES_MAX}: it is two nouns" for source in sources if source.lines > LINES_MAX]


def bare_ignores(sources: Iterable[Source]) -> list[str]:
    """What mypy or ruff is told to ignore says why: `# type: ignore[code]  # why`, `# noqa: CODE - why`."""
    return [
        f"{source.name}:{line} has {comment!r}: say why, behind it"
        for source in sources
        if IGNORE.search(source.text)  # comments are looked for where there may be one of these: that takes its time
        for line, comment in comments_of(source)
        if IGNORE.search(comment) and not REASONED.search(comment)
    ]


def comments_of(source: Source) -> Iterator[tuple[int, str]]:
    """The comments of *source* with their lines; one in a string is none."""
    for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
