"""Your own images: a CSV file of path,label, and if wanted split."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path

from kit.data.source import Files, LabelledFiles
from kit.errors import KitError

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
_FORMAT = "expected a first line path,label or path,label,split and then one image a line"
_SHOWN = 5  # lines at fault that a message names


@dataclass(frozen=True)
class _Row:
    line: int
    file: Path
    label: str
    split: str


def read_csv(path: str | os.PathLike) -> Files:
    """The image files that a CSV file lists, UTF-8, separated by commas, semicolons or tabs.

    Columns, in any order: path (relative ones start at the CSV's folder), label (any text), and if wanted split (train,
    val or
    test; test may come without val, not the reverse). Further columns are ignored. Labels are sorted: by number if all
    are
    numbers, else as text. Raises KitError, naming the lines, for a missing column or value, an unknown split, an image
    that is
    not there or is listed twice, and for labels that a split lacks in train or that are too few to be split.
    """
    table = Path(path).expanduser()
    rows = _rows(table)
    classes = _classes([row.label for row in rows])
    if len(classes) < 2:
        raise KitError(f"{table} has only one label, {classes[0]!r}: at least two are needed")
    parts: dict[str, list[_Row]] = {}
    for row in rows:
        parts.setdefault(row.split or "train", []).append(row)
    _check_parts(table, parts, any(row.split for row in rows))
    label = {name: i for i, name in enumerate(classes)}
    pairs: dict[str, LabelledFiles] = {
        split: [(row.file, label[row.label]) for row in part] for split, part in parts.items()
    }
    return Files(classes, **pairs, split=f"the column split of {table.name}" if len(parts) > 1 else None)


def _rows(table: Path) -> list[_Row]:
    try:
        with open(table, newline="", encoding="utf-8-sig") as content:
            first = content.readline()
            content.seek(0)
            delimiter = max(",;\t", key=first.count)
            reader = csv.reader(content, delimiter=delimiter, strict=True)
            lines = [
                (reader.line_num, [cell.strip() for cell in cells])
                for cells in reader
                if any(cell.strip() for cell in cells)
            ]
    except FileNotFoundError:
        raise KitError(f"{table} was not found (from {Path.cwd()}): check the path") from None
    except UnicodeDecodeError as error:
        raise KitError(
            f"{table} is not UTF-8 text ({error.reason} at byte {error.start}): save it as CSV UTF-8"
        ) from None
    except (OSError, csv.Error) as error:
        raise KitError(f"{table} cannot be read ({type(error).__name__}: {error}): {_FORMAT}") from None
    if len(lines) < 2:
        raise KitError(f"{table} lists no images: {_FORMAT}")
    header = [name.casefold() for name in lines[0][1]]
    lacking = [name for name in ("path", "label") if header.count(name) != 1]
    if lacking or header.count("split") > 1:
        raise KitError(
            f"{table} line {lines[0][0]}: the columns are {', '.join(header)}, one {' and one '.join(lacking or ['split'])} is needed: "
            f"{_FORMAT}"
        )
    return _checked(table, header, lines[1:])


def _checked(table: Path, header: list[str], lines: list[tuple[int, list[str]]]) -> list[_Row]:
    rows, faults = [], []
    seen: dict[Path, int] = {}
    for line, cells in lines:
        if len(cells) != len(header):
            faults.append(f"line {line} has {len(cells)} cells, the first line {len(header)}")
            continue
        values = dict(zip(header, cells, strict=True))
        split = SPLITS.get(values.get("split", "").casefold(), values.get("split", ""))
        file = table.parent / values["path"]
        if not values["path"] or not values["label"] or ("split" in header and not split):
            faults.append(
                f"line {line} has no {next(name for name in ('path', 'label', 'split') if not values.get(name))}"
            )
        elif split and split not in SPLITS.values():
            faults.append(f"line {line} has split {split!r}, allowed are train, val, test")
        elif not os.path.isfile(file):  # Path.is_file raises on names that are too long
            start = "" if Path(values["path"]).is_absolute() else f" in {table.parent}"
            faults.append(f"line {line}: there is no file {values['path']}{start}")
        elif (before := seen.setdefault(file.resolve(), line)) != line:
            faults.append(f"line {line} lists {values['path']} again, after line {before}")
        else:
            rows.append(_Row(line, file, values["label"], split))
    if faults:
        more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise KitError(
            f"{table}: {len(faults)} line(s) at fault: {'; '.join(faults[:_SHOWN])}{more}: mend or remove them"
        )
    return rows


def _classes(labels: list[str]) -> tuple[str, ...]:
    names = set(labels)
    if all(name.isascii() and name.isdigit() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def _check_parts(table: Path, parts: dict[str, list[_Row]], given: bool) -> None:
    if given and "train" not in parts:
        raise KitError(f"{table} has no line of split train: the images to learn from need it")
    if "val" in parts and "test" not in parts:
        raise KitError(
            f"{table} has split val but no split test: call it test, and kit holds val out of train; or give test lines too"
        )
    needed = {1: 3, 2: 2, 3: 1}[len(parts)]  # one image for each split that is to be cut from train
    counts: dict[str, list[int]] = {}
    for row in parts["train"]:
        counts.setdefault(row.label, []).append(row.line)
    for split, part in parts.items():
        if strange := next((row for row in part if row.label not in counts), None):
            raise KitError(f"{table} line {strange.line}: label {strange.label!r} is in {split} but not in train")
    for label, lines in counts.items():
        if len(lines) < needed:
            raise KitError(
                f"{table}: label {label!r} has {len(lines)} image(s) in train (line {lines[0]}), at least {needed} are needed "
                "to split it: add images, remove the label, or give every line a split of train, val or test"
            )
