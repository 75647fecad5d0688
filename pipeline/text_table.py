"""A small table that is printed on the terminal or written as Markdown."""

from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.console import Console
from rich.table import Table


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
        table = Table(
            title=self.title, title_justify="left", box=box.SIMPLE_HEAD, caption=self.note
        )
        table.caption_justify = "left"
        for number, column in enumerate(self.columns):
            table.add_column(column, justify=self.align if number else "left")
        for row in self.rows:
            table.add_row(*row)
        console = Console(highlight=False)
        if not console.is_terminal:
            console.width = 120  # a pipe has no width; 80 columns would break the tables
        console.print(table)

    def markdown(self) -> str:
        """Return as Markdown."""
        rule = ["---", *["---:" if self.align == "right" else "---"] * (len(self.columns) - 1)]
        lines = [" | ".join(row) for row in (self.columns, rule, *self.rows)]
        body = "\n".join(f"| {line} |" for line in lines)
        return f"**{self.title}**\n\n{body}\n" + (f"\n{self.note}\n" if self.note else "")
