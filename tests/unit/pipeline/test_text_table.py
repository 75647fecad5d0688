"""Tables on the terminal and as Markdown."""

import pytest

from pipeline.text_table import TextTable

TABLE = TextTable(
    title="Two labels",
    columns=("name", "top1"),
    rows=(("shoes", "0.5"), ("a long name", "0.25")),
    note="Three seeds.",
)


def lines(capsys: pytest.CaptureFixture[str], table: TextTable):
    """Return what a table prints to stdout, line by line, and check stderr is empty."""
    table.print()
    out, err = capsys.readouterr()
    assert not err
    return [line.rstrip() for line in out.splitlines()]


def test_a_table_prints_title_header_rows_and_note(capsys: pytest.CaptureFixture[str]) -> None:
    """Results go to stdout, where they can be piped; logs do not."""
    printed = lines(capsys, TABLE)
    text = "\n".join(printed)
    places = [
        text.index(word) for word in ("Two labels", "top1", "shoes", "a long name", "Three seeds.")
    ]
    assert places == sorted(places)


def test_numbers_are_right_aligned_and_words_left(capsys: pytest.CaptureFixture[str]) -> None:
    """Digits of one place stand under one another."""
    first, second = (
        line for line in lines(capsys, TABLE) if "shoes" in line or "a long name" in line
    )
    assert len(first) == len(second)
    assert first.index("shoes") == second.index("a long name")


def test_columns_of_words_can_be_left_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    """Names and paths read from the left."""
    table = TextTable(
        title="T", columns=("a", "b"), rows=(("x", "pq"), ("y", "rstu")), align="left"
    )
    first, second = (line for line in lines(capsys, table) if "pq" in line or "rstu" in line)
    assert first.index("pq") == second.index("rstu")


def test_a_pipe_gets_whole_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """At the 80 columns of no terminal, long names would be cut or wrapped."""
    name = "x" * 90
    table = TextTable(title="T", columns=("name", "n"), rows=((name, "17"),))
    row = next(line for line in lines(capsys, table) if name in line)
    assert row.endswith("17")


@pytest.mark.parametrize(
    "name", ["Shirts [men]", "Shirts [/men]", "[red]Wine[/red]", "Mugs :smile:"]
)
def test_names_are_printed_as_they_are(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Category names are data: brackets and colons in them are not the terminal's markup."""
    table = TextTable(
        title=f"Nearest labels of {name}", columns=("name", "n"), rows=((name, "1"),), note=name
    )
    # A title wraps at the width of its table; the words are what counts.
    words = " ".join(" ".join(lines(capsys, table)).split())
    assert words.count(name) == 3


def test_markdown_has_a_header_a_rule_and_a_line_for_each_row() -> None:
    """It is pasted into docs/ as it is."""
    assert TABLE.markdown() == (
        "**Two labels**\n\n"
        "| name | top1 |\n| --- | ---: |\n| shoes | 0.5 |\n| a long name | 0.25 |\n"
        "\nThree seeds.\n"
    )


def test_markdown_without_a_note_ends_after_the_rows() -> None:
    """Left-aligned columns have a plain rule."""
    table = TextTable(title="T", columns=("a", "b"), rows=(("x", "y"),), align="left")
    assert table.markdown() == "**T**\n\n| a | b |\n| --- | --- |\n| x | y |\n"


def test_markdown_keeps_a_bar_in_a_name_inside_its_cell() -> None:
    """`Cups | Mugs` as a category name would add a column to one row only."""
    table = TextTable(title="T", columns=("a", "b"), rows=(("Cups | Mugs", "1"),))
    assert r"| Cups \| Mugs | 1 |" in table.markdown()
