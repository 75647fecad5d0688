"""A small table that is printed on the terminal or written as Markdown."""

from dataclasses import dataclass
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True, kw_only=True)
class TextTable:
    """Rows of text under a title; the first column is words."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    align: Literal["left", "right"] = "right"
    """Of the columns after the first."""

    def print(self) -> None:
        """Print to stdout."""
        # As Text: a label called "Shirts [men]" is no markup, and ":smile:" no picture.
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for number, column in enumerate(self.columns):
            table.add_column(
                Text(column), justify=self.align if number else "left", no_wrap=number == 0
            )
        for row in self.rows:
            table.add_row(*map(Text, row))
        console = Console(highlight=False)
        if not console.is_terminal:
            console.width = 160  # a pipe has no width; 80 columns would break the tables
        console.print(Text(self.title, style="bold"))
        if self.rows:
            console.print(table)
        if self.note:
            console.print(Text(f"{self.note}\n"))

    def as_dict(self) -> dict[str, Any]:
        """Return for JSON."""
        return {
            "title": self.title,
            "columns": list(self.columns),
            "rows": [list(row) for row in self.rows],
            "note": self.note,
        }

    def markdown(self) -> str:
        """Return as Markdown."""
        rule = ["---", *["---:" if self.align == "right" else "---"] * (len(self.columns) - 1)]
        rows = [[cell.replace("|", "\\|") for cell in row] for row in (self.columns, *self.rows)]
        lines = [" | ".join(row) for row in (rows[0], rule, *rows[1:])]
        body = "\n".join(f"| {line} |" for line in lines)
        return f"**{self.title}**\n\n{body}\n" + (f"\n{self.note}\n" if self.note else "")
