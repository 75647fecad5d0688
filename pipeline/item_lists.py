"""Read short lists about items: ids, or ids with something beside them."""

import io
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from pipeline.locations import absolute, file_name, read_file, reading
from schemas.errors import CatalogError


def read_item_list(path: str | Path, option: str, columns: Sequence[str]) -> pa.Table:
    """Return columns of a file as text; the first, item_id, is unique and never empty.

    Args:
        path: .csv or .parquet with these columns, or .txt with one id a line where only ids are
            asked for; local or a URL that fsspec knows.
        option: that names it, for errors.
        columns: item_id and others, which are null where empty.
    Raises: CatalogError if it cannot be read, lacks a column, or ids are missing or repeat.
    """
    place = absolute(path)
    data = read_file(place, option)
    with reading(place):
        table = _table(file_name(place), data, columns)
        missing = [name for name in columns if name not in table.column_names]
        if missing:
            raise CatalogError(
                f"missing columns: {', '.join(missing)}; found: {', '.join(table.column_names)}",
                where=place,
                fix=f"give it {', '.join(columns)}",
            )
        texts = {name: table[name].cast(pa.string()).combine_chunks() for name in columns}
    texts = {name: pc.if_else(pc.equal(text, ""), None, text) for name, text in texts.items()}
    ids = texts["item_id"]
    problems = {
        "rows have no item_id": [f"row {row + 1}" for row in _true(ids.is_null())],
        "item ids occur more than once": [repr(value) for value in _repeated(ids)],
    }
    for problem, found in problems.items():
        if found:
            raise CatalogError(
                f"{len(found)} {problem}: {', '.join(found[:3])}",
                where=place,
                fix="correct these rows",
            )
    return pa.table(texts)


def refuse_unknown(ids: pa.Array, path: str | Path) -> None:
    """Raise a CatalogError that counts ids which are not in the plan, if there are some."""
    if len(ids):
        shown = ", ".join(map(repr, ids[:3].to_pylist()))
        raise CatalogError(
            f"{len(ids)} item ids are not in the plan: {shown}",
            where=str(path),
            fix="correct these rows, or drop them",
        )


def _table(name: str, data: bytes, columns: Sequence[str]) -> pa.Table:
    if name.endswith(".parquet"):
        return pq.read_table(io.BytesIO(data))
    if name.endswith(".txt") and list(columns) == ["item_id"]:
        lines = data.decode("utf-8-sig").splitlines()
        return pa.table({"item_id": pa.array([line for line in lines if line], pa.string())})
    options = pa.csv.ConvertOptions(
        column_types={each: pa.string() for each in columns}, strings_can_be_null=False
    )
    parsing = pa.csv.ParseOptions(newlines_in_values=True)
    return pa.csv.read_csv(io.BytesIO(data), parse_options=parsing, convert_options=options)


def _true(mask: pa.Array) -> list[int]:
    return pc.indices_nonzero(mask).to_pylist()


def _repeated(ids: pa.Array) -> list[str]:
    counts = pc.value_counts(ids)
    return counts.field("values").filter(pc.greater(counts.field("counts"), 1)).to_pylist()
