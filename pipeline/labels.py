"""Read the product categories and make the texts that stand for them.

Columns: label_id, name, and optionally path (levels joined by " > ", ending with the name).
"""

import difflib
import string
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from pipeline.locations import absolute, file_name, is_file, open_file, reading
from schemas.configs import digest
from schemas.errors import CatalogError, LabelNotFoundError

PATH_SEPARATOR = " > "
TEMPLATE_SEPARATOR = " | "


def read_labels(path: str | Path) -> pa.Table:
    """Read label_id, name and path as strings, in file order; path is null where absent.

    Args:
        path: a .parquet file, or a CSV; local or a URL that fsspec knows.
    Raises: CatalogError on a missing file or column, null or duplicate ids, null names, or a
        path that does not end with its name.
    """
    place = absolute(path)
    if not is_file(place):
        raise CatalogError("no such labels file", where=place, fix="pass it with --labels")
    with reading(place), open_file(place) as file:
        if file_name(place).endswith(".parquet"):
            table = pq.read_table(file)
        else:
            as_text = {name: pa.string() for name in ("label_id", "name", "path")}
            table = pa.csv.read_csv(
                file,
                parse_options=pa.csv.ParseOptions(newlines_in_values=True),
                convert_options=pa.csv.ConvertOptions(column_types=as_text),
            )
    missing = [name for name in ("label_id", "name") if name not in table.column_names]
    if missing:
        raise CatalogError(
            f"missing columns: {', '.join(missing)}; found: {', '.join(table.column_names)}",
            where=place,
            fix="give each label a label_id and a name",
        )
    paths = table["path"] if "path" in table.column_names else pa.nulls(len(table))
    columns = {"label_id": table["label_id"], "name": table["name"], "path": paths}
    with reading(place):
        labels = pa.table({name: column.cast(pa.string()) for name, column in columns.items()})
    blank = pc.equal(labels["path"], "")  # of a CSV's empty cell
    labels = labels.set_column(2, "path", pc.if_else(blank, None, labels["path"]))
    _check(labels, place)
    return labels


def _check(labels: pa.Table, place: str) -> None:
    ids, names = labels["label_id"].to_pylist(), labels["name"].to_pylist()
    paths = labels["path"].to_pylist()
    problems = {
        "labels without an id or name": [
            f"row {row}"
            for row, (label_id, name) in enumerate(zip(ids, names, strict=True))
            if not label_id or not name
        ],
        "duplicate label ids": duplicates(ids),
        "paths that do not end with the label's name": [
            f"{where!r} (name {name!r})"
            for name, where in zip(names, paths, strict=True)
            if where is not None and where.split(PATH_SEPARATOR)[-1] != name
        ],
        "paths with a level without a name": [
            repr(where)
            for where in paths
            if where is not None and not all(map(str.strip, where.split(PATH_SEPARATOR)))
        ],
    }
    if len(ids) < 2:
        problems["labels (expected at least 2)"] = [str(label) for label in ids] or ["none"]
    for problem, found in problems.items():
        if found:
            raise CatalogError(
                f"{len(found)} {problem}: {', '.join(map(str, found[:3]))}",
                where=place,
                fix="correct these rows",
            )


Value = TypeVar("Value", bound=Hashable)


def duplicates(values: Sequence[Value]) -> list[Value]:
    """Return the values that occur more than once, each once, in order of appearance."""
    return [value for value, count in Counter(values).items() if count > 1]


def labels_sha256(labels: pa.Table) -> str:
    """Hash the ids, names and paths in order."""
    return digest([labels[name].to_pylist() for name in ("label_id", "name", "path")])


def label_prompts(labels: pa.Table, label_text: str) -> list[tuple[str, ...]]:
    """Return the texts to embed for each label: one, or one of each of several templates.

    Args:
        labels: with the columns name and path.
        label_text: as in `label_texts`, or several of these with " | " between.
    Raises: as `label_texts`.
    """
    templates = label_text.split(TEMPLATE_SEPARATOR)
    texts = [label_texts(labels, template) for template in templates]
    return list(zip(*texts, strict=True))


def label_texts(labels: pa.Table, label_text: str) -> list[str]:
    """Return one text to embed for each label.

    Args:
        labels: with the columns name and path.
        label_text: `name`, `path`, or a template such as "a photo of a {name}".
    Raises: CatalogError if the template has no such field or a label has no path.
    """
    template = {"name": "{name}", "path": "{path}"}.get(label_text, label_text)
    try:
        parts = [part[1:] for part in string.Formatter().parse(template) if part[1] is not None]
    except ValueError as error:
        raise _bad_template(label_text, str(error)) from error
    plain = [("name", "", None), ("path", "", None)]
    if not parts or any(part not in plain for part in parts):
        raise _bad_template(label_text, "expected {name} or {path}, and no other braces")
    fields = {field for field, _, _ in parts}
    if "path" in fields and labels["path"].null_count:
        raise CatalogError(
            f"{labels['path'].null_count} labels have no path",
            where="--label-text",
            fix="add the column `path` to the labels, or use --label-text name",
        )
    return [
        template.format(name=row["name"], path=row["path"])
        for row in labels.select(["name", "path"]).to_pylist()
    ]


def _bad_template(label_text: str, problem: str) -> CatalogError:
    return CatalogError(
        f"--label-text {label_text!r} is not a template: {problem}",
        where="--label-text",
        fix='use name, path, a template such as "a photo of a {name}", or several joined by " | "',
    )


def find_label(labels: pa.Table, text: str) -> int:
    """Return the label with this name, path or label_id, ignoring case.

    Raises: LabelNotFoundError with the nearest names; also where several share the name.
    """
    rows = labels.select(["label_id", "name", "path"]).to_pylist()
    wanted = text.casefold()
    found = [
        label
        for label, row in enumerate(rows)
        if wanted in {str(value).casefold() for value in row.values() if value is not None}
    ]
    if len(found) == 1:
        return found[0]
    if found:
        near = [str(rows[label]["path"] or rows[label]["label_id"]) for label in found[:3]]
        what = f"{len(found)} labels are called {text!r}"
    else:
        by_folded = {str(row["name"]).casefold(): str(row["name"]) for row in rows}
        matches = difflib.get_close_matches(wanted, by_folded, n=3, cutoff=0.0)
        near = [by_folded[match] for match in matches]
        what = f"no label is called {text!r}"
    raise LabelNotFoundError(what, where="labels.parquet", fix=f"use one of: {', '.join(near)}")
