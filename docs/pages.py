"""What pages say that follows from the code and the reports, written anew: python docs/pages.py (make pages).

A page is written by hand, but for what stands between `<!-- made: NAME … -->` and `<!-- end -->`: that is what the
function NAME below gives, with the words behind it as arguments. tests/test_docs.py fails where a page is not current.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

import cases  # noqa: E402

import kit  # noqa: E402
from kit.config import PARTS  # noqa: E402
from kit.methods import METHODS  # noqa: E402
from kit.registry import Part  # noqa: E402
from kit.search.step import STEPS  # noqa: E402

MADE = re.compile(r"(<!-- made: (\w+)([^\n]*?) -->\n).*?(<!-- end -->)", re.S)
PRESETS = ("laptop", "server", "paper")
KINDS = {"augment": "τ", "arch": "α", "hyper": "η", "space": "network"}
# in zoo's files too: a row that no page names stands with the baselines
FAMILIES = ("dha", "diffautoml", "daas", "autohas")


def table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    lines = [list(head), *([str(cell).replace("|", "\\|") for cell in row] for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def first_paragraph(make: Any) -> str:
    return " ".join((inspect.getdoc(make) or "").split("\n\n")[0].split())


# ---- methods -------------------------------------------------------------------------------------


def family(page: str) -> list[str]:
    """The methods that a page is about: those it names itself, or for the baselines all that no page names."""
    text = {name: (ROOT / "docs" / "methods" / f"{name}.md").read_text() for name in FAMILIES}
    named = {name: re.search(r"<!-- made: rows ([^>]*) -->", t).group(1).split() for name, t in text.items()}
    others = [name for name in METHODS if name not in sum(named.values(), [])]
    return [name for name in named.get(page, others) if name in METHODS]


def methods() -> str:
    """Every method: its page, what it searches, its title."""
    page_of = {name: page for page in (*FAMILIES, "baselines") for name in family(page)}
    rows = ((f"[`{n}`]({page_of[n]}.md)", m.searches, m.title) for n, m in METHODS.items())
    return table(("method", "learns", "what it is"), rows)


def chosen(config: kit.Config) -> list[tuple[str, Part]]:
    """(kind, part) of all that a configuration composes, steps last."""
    parts = [(letter, PARTS[kind][getattr(config, kind)]) for kind, letter in KINDS.items()]
    return parts + [("step", STEPS[name]) for name in dict.fromkeys(stage.step for stage in config.stages)]


def rows(*names: str) -> str:
    """What each method composes."""
    lines = []
    for name in names:
        config = kit.Config(method=name)
        stages = " → ".join(stage.name + ("*" if stage.restart else "") for stage in METHODS[name].stages)
        parts = (f"`{getattr(config, kind)}`" for kind in KINDS)
        lines.append((f"`{name}`", METHODS[name].title, METHODS[name].searches, stages, *parts))
    return table(("`method=`", "what it is", "learns", "stages", *KINDS.values()), lines) + "\n*: with new weights.\n"


def baselines() -> str:
    return rows(*family("baselines"))


def learners(*names: str) -> str:
    """What the parts of these methods are, in the words of their classes."""
    parts = {(kind, part.name): part for name in names or family("baselines") for kind, part in composed(name)}
    order = [*KINDS.values(), "step"]
    lines = sorted(parts.items(), key=lambda item: order.index(item[0][0]))
    return "".join(f"- {kind} `{name}`, {p.title}: {first_paragraph(p.make)}\n" for (kind, name), p in lines)


def composed(name: str) -> list[tuple[str, Part]]:
    """The parts of all presets, for `paper` may choose others."""
    found = [part for preset in PRESETS for part in chosen(kit.Config(method=name, preset=preset))]
    return list({(kind, part.name): (kind, part) for kind, part in found}.values())


def settings(*names: str) -> str:
    """The options of the parts of these methods, by preset, as the first of them that has it is filled."""
    lines: dict[str, tuple[str, ...]] = {}
    for name in names or family("baselines"):
        configs = [kit.Config(method=name, preset=preset) for preset in PRESETS]
        for _, part in (both for config in configs for both in chosen(config)):
            for field in part.options.model_fields if part.options else ():
                values = (said(getattr(config, field)) for config in configs)
                lines.setdefault(field, (f"`{field}`", *values, kit.Config.model_fields[field].description or ""))
    return table(("field", *PRESETS, "what it is"), lines.values())


def said(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def results(*names: str) -> str:
    """Test accuracy of the committed reports beside the papers': mean ± standard deviation (n seeds), in percent."""
    names, columns = names or tuple(family("baselines")), {}
    for file in sorted((ROOT / "reports").glob("*.csv")):
        runs = pd.read_csv(file)
        if file.stem.startswith(("ablation-", "methods-")) and {"method", "test_accuracy"} <= set(runs):
            per = (100 * runs["test_accuracy"]).groupby(runs["method"]).agg(["mean", "std", "size"])
            columns[f"[{file.stem}](../../reports/{file.stem}.md)"] = {
                method: f"{mean:.1f}" + (f" ± {std:.1f}" if n > 1 else "") + f" (n={n})"
                for method, mean, std, n in per.itertuples()
            }
    for column, values in pd.read_csv(ROOT / "kit/studies/papers.csv", comment="#").set_index("method").items():
        columns[f"paper: {column.upper().replace('CIFAR', 'CIFAR-')}"] = values.dropna().to_dict()
    columns = {title: by for title, by in columns.items() if any(name in by for name in names)}
    known = [name for name in names if any(name in by for by in columns.values())]
    lines = ((title, *(by.get(name, "") for name in known)) for title, by in columns.items())
    return table(("top-1 in %", *(f"`{name}`" for name in known)), lines) if known else "None yet.\n"


# ---- fields --------------------------------------------------------------------------------------


def fields() -> str:
    """All fields of `kit.Config`: kit's own, then the options of the parts, under the parts that own them."""
    owners: dict[str, list[tuple[str, str]]] = {}
    for kind, parts in {**PARTS, "step": STEPS}.items():
        for part in parts.values():
            for name in part.options.model_fields if part.options else ():
                owners.setdefault(name, []).append((kind, part.name))
    configs = [kit.Config(preset=preset) for preset in PRESETS]
    own = [name for name in kit.Config.model_fields if name not in owners]
    head = ("field", "type and range", *PRESETS, "what it is")
    text = f"## Of every run\n\n{table(head, (field_row(name, configs) for name in own))}"
    groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for name, of in owners.items():
        groups.setdefault(tuple(of), []).append(name)
    for of, names in groups.items():
        by_kind = {kind: [f"`{part}`" for k, part in of if k == kind] for kind in dict(of)}
        heading = "; ".join(f"{KINDS.get(kind, kind)}: {', '.join(parts)}" for kind, parts in by_kind.items())
        text += f"\n## Of {heading}\n\n" + table(head, (field_row(name, configs, of) for name in names))
    return text


def field_row(name: str, configs: list[kit.Config], of: Iterable[tuple[str, str]] = ()) -> tuple[str, ...]:
    """Its values by preset with the method `dha`, and what parts bring in place of them."""
    field = kit.Config.model_fields[name]
    values = [said(getattr(config, name)) for config in configs]
    brought = []
    for kind, owner in of:
        part = {**PARTS, "step": STEPS}[kind][owner]
        if name in part.brings and getattr(configs[0], kind, None) != part.name:
            by = [said(part.values(preset).get(name, field.default)) for preset in PRESETS]
            brought.append(f"`{part.name}`: {by[0] if len(set(by)) == 1 else ', '.join(by)}")
    about = (field.description or "") + (f" ({'; '.join(brought)})" if brought else "")
    return (f"`{name}`", typed(field), *values, about)


def typed(field: Any) -> str:
    """ "int, 4 … 1024, or None"."""
    options = get_args(field.annotation) if get_origin(field.annotation) not in (None, Literal) else (field.annotation,)
    kinds = [t for t in options if t is not type(None)]
    text = ", ".join(
        " · ".join(map(str, get_args(t))) if get_origin(t) is Literal else getattr(t, "__name__", str(t)) for t in kinds
    )
    limits = {key: getattr(m, key) for m in field.metadata for key in ("ge", "gt", "le", "lt") if hasattr(m, key)}
    low = limits.get("ge", f"above {limits['gt']}" if "gt" in limits else None)
    high = limits.get("le", f"below {limits['lt']}" if "lt" in limits else None)
    if low is not None or high is not None:
        text += f", {low} … {'' if high is None else high}".rstrip() if low is not None else f", … {high}"
    return text + (", or None" if len(kinds) < len(options) else "")


# ---- questions -----------------------------------------------------------------------------------


def questions(*_: str) -> str:
    """Every case of cases.py: the code that goes wrong, the error it gives now, why, and the code that goes right."""
    text = ""
    for topic, listed in cases.answered().items():
        text += f"## {topic}\n\n"
        for case, message in listed:
            text += f"### {case.title}\n\n```python\n{case.wrong}\n```\n\n> {message}\n\n{case.why}\n\n"
            text += f"Type:\n\n```python\n{case.right}\n```\n\n"
    return text


# ---- all -----------------------------------------------------------------------------------------

MAKERS = {f.__name__: f for f in (methods, rows, baselines, learners, settings, results, fields, questions)}


def current(text: str) -> str:
    """A page's text with what is made made anew."""
    return MADE.sub(lambda m: f"{m[1]}\n{MAKERS[m[2]](*m[3].split()).strip()}\n\n{m[4]}", text)


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


if __name__ == "__main__":
    old = {page: page.read_text() for page in pages()}
    new = {page: text for page in old if (text := current(old[page])) != old[page]}
    if "--check" not in sys.argv:
        for page, text in new.items():
            page.write_text(text)
    print(*(page.relative_to(ROOT) for page in new), sep="\n")
    sys.exit(bool(new) and "--check" in sys.argv)
