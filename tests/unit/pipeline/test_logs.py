"""What a log collector of a cluster gets to read."""

import json
import logging
import re
import socket
from pathlib import Path

import pytest

from pipeline.logs import configure, event, is_json
from pipeline.progress import Progress


def lines(captured: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in captured.splitlines()]


def test_an_event_is_one_json_object_with_its_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    """A dashboard plots items_per_second by host; it must not parse a sentence for it."""
    configure("json")
    assert is_json()
    sent = event("shard_done", shard=3, items_per_second=12.5)
    logging.getLogger("pipeline.embed").info("shard %05d:\nis done", 3, extra=sent)
    (found,) = lines(capsys.readouterr().err)
    assert found.pop("time") > "2026"
    assert found.pop("pid")
    assert found == {
        "level": "info",
        "event": "shard_done",
        "host": socket.gethostname(),
        "shard": 3,
        "items_per_second": 12.5,
        "message": "shard 00003:\nis done",
    }


def test_a_traceback_stays_within_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Else every line of it becomes an event of its own that no collector understands."""
    configure("json")
    broken = RuntimeError("broken\nin two")
    try:
        raise broken
    except RuntimeError:
        logging.getLogger("cli").exception("a mistake")
    (found,) = lines(capsys.readouterr().err)
    assert (found["event"], found["level"]) == ("log", "error")
    assert "RuntimeError: broken\nin two" in str(found["traceback"])


def test_text_shows_only_the_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    """As before there was a choice."""
    configure("text")
    assert not is_json()
    logging.getLogger("cache.lease").info("%d done", 3, extra=event("x", values=1))
    assert capsys.readouterr().err == "3 done\n"


def test_other_libraries_are_heard_only_when_something_is_wrong(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """open_clip logs its every step."""
    configure("json")
    logging.getLogger("pipeline").debug("of ours, but too much")
    logging.getLogger("cli").info("of ours")
    assert [line["message"] for line in lines(capsys.readouterr().err)] == ["of ours"]


def test_progress_is_an_event_with_rate_and_what_was_noted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shard and the nodes' rates travel with it."""
    monkeypatch.setattr("pipeline.progress._LOG_SECONDS", 0.0)
    configure("json")
    with Progress("embed shard 00003", 10, shard=3) as progress:
        progress.note("node-a 5/s", nodes={"node-a": 5.0})
        progress.update(4)
    (found,) = lines(capsys.readouterr().err)
    assert (found["event"], found["shard"], found["done"], found["total"]) == ("progress", 3, 4, 10)
    assert found["per_second"] > 0
    assert found["nodes"] == {"node-a": 5.0}
    assert str(found["message"]).startswith("embed shard 00003: 4 of 10, ")
    assert str(found["message"]).endswith("left; node-a 5/s")


def test_on_a_terminal_a_line_stands_above_the_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind the bar it could not be read: a run on many nodes has one open all the time."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    configure("text")
    with Progress("embed", 10) as progress:
        progress.update(4)
        logging.getLogger("pipeline").info("shard 00003 is done")
    written = capsys.readouterr().err
    assert re.search(r"(^|[\r\n])shard 00003 is done\n", written), written


def test_the_documentation_lists_every_event() -> None:
    """Who builds a dashboard reads docs/clusters.md, not the code."""
    root = Path(__file__).parents[3]
    sources = [root / "cli.py", *(root / "pipeline").rglob("*.py"), *(root / "cache").rglob("*.py")]
    text = "\n".join(path.read_text() for path in sources)
    named = set(re.findall(r"\bevent\(\s*\"([a-z_]+)\"", text))
    documented = (root / "docs" / "clusters.md").read_text()
    (listed,) = re.findall(r"`event` is one of ([a-z_,\s]+), or log", documented)
    assert named == set(re.split(r",\s+", listed))
