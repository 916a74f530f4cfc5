"""The shape of the code, counted: `make lint` runs this beside ruff, and it fails where a limit is passed.

python tests/structure.py
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

KIT = Path(__file__).resolve().parent.parent / "kit"
TOTAL, FILE, LINE = 10_000, 350, 120
ZOO_TOTAL, ZOO_FILE = 2_000, 100  # kit/zoo, plug-ins that no one imports, does not count towards TOTAL
TABLES = ("data/named.py", "space/cell.py")  # tables of data: the formatter would tear them
# a room may import those of its own tier and of the tiers before it; kit/__init__ and __main__ may import all. kit/zoo
# may import the core alone, and its files not each other.
CORE = tuple("config methods errors files registry search augment space arch hyper data run".split())
TIERS = (CORE, ("zoo", "figures"), ("lab",), ("studies",))


def files() -> list[Path]:
    return sorted([*KIT.rglob("*.py"), *KIT.rglob("*.j2")])


def room(path: Path) -> str:
    """A file's folder below kit/, or a file's own name where it lies there itself."""
    return path.relative_to(KIT).parts[0].removesuffix(".py")


def imports(path: Path, top_level: bool) -> Iterator[str]:
    """Modules of kit that a file imports: as it is imported itself (top_level), or anywhere in it but for types."""
    tree = ast.parse(path.read_text())
    types = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    tree.body = [node for node in tree.body if node not in types]
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.startswith("kit"))
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "kit":
            for name in node.names:
                inner = KIT.parent / node.module.replace(".", "/") / name.name
                is_module = inner.is_dir() or inner.with_suffix(".py").is_file()
                yield f"{node.module}.{name.name}" if is_module else node.module


def upward() -> list[str]:
    """Imports that point from the core to what stands on it."""
    tier = {name: i for i, names in enumerate(TIERS) for name in names}
    wrong = []
    for path in KIT.rglob("*.py"):
        for module in imports(path, top_level=False):
            parts = module.split(".")
            if len(parts) > 1 and parts[1] == "zoo" or room(path) == "zoo" and tier.get(parts[1], -1) > 0:
                wrong.append(f"{path.relative_to(KIT)} imports {module}: what lies in kit/zoo is a plug-in")
            elif room(path) in tier and len(parts) > 1 and tier.get(parts[1], -1) > tier[room(path)]:
                wrong.append(f"{path.relative_to(KIT)} imports {module}, which stands above it")
    return wrong


def circles() -> list[str]:
    """Files that import each other when they are imported."""
    module_of = {}
    for path in KIT.rglob("*.py"):
        parts = path.relative_to(KIT.parent).with_suffix("").parts
        module_of[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    graph = {name: {m for m in imports(path, top_level=True) if m in module_of} for name, path in module_of.items()}
    graph = {name: {m for m in targets if not name.startswith(f"{m}.")} for name, targets in graph.items()}
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> str | None:
        if name in trail:
            return " → ".join([*trail[trail.index(name) :], name])
        if name in done:
            return None
        for target in sorted(graph[name]):
            if found := visit(target, [*trail, name]):
                return found
        done.add(name)
        return None

    return [found for name in sorted(graph) if (found := visit(name, []))]


def problems() -> list[str]:
    """Every limit that is passed, a line each."""
    found = upward() + circles()
    lengths = {path: path.read_text().splitlines() for path in files()}
    for path, lines in lengths.items():
        name = path.relative_to(KIT.parent)
        if len(lines) > (most := ZOO_FILE if room(path) == "zoo" else FILE):
            found.append(f"{name} has {len(lines)} lines, at most {most} are allowed")
        found += [f"{name}:{i} has {len(line)} characters" for i, line in enumerate(lines, 1) if len(line) > LINE]
        if path.suffix == ".py" and str(path.relative_to(KIT)) not in TABLES:
            found += [f"{name}:{i} skips the formatter" for i, line in enumerate(lines, 1) if "fmt: skip" in line]
    zoo = sum(len(lines) for path, lines in lengths.items() if room(path) == "zoo")
    total = sum(map(len, lengths.values())) - zoo
    for where, count, most in (("kit/ without its zoo", total, TOTAL), ("kit/zoo", zoo, ZOO_TOTAL)):
        if count > most:
            found.append(f"{where} has {count:,} lines, at most {most:,} are allowed")
    return found


def table() -> str:
    """Lines of each room; kit's sum is without the zoo."""
    rooms: dict[str, int] = {}
    for path in files():
        rooms[room(path)] = rooms.get(room(path), 0) + len(path.read_text().splitlines())
    zoo = rooms.pop("zoo", 0)
    rows = [*sorted(rooms.items(), key=lambda item: -item[1]), ("kit", sum(rooms.values())), ("kit/zoo", zoo)]
    return "\n".join(f"{name:<12}{count:>7,}" for name, count in rows)


if __name__ == "__main__":
    print(table())
    wrong = problems()
    print("\n".join(wrong))
    sys.exit(1 if wrong else 0)
