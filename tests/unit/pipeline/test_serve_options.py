"""What keeps the service from starting: options, addresses and packages."""

import socket
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import cli
from pipeline.serve import listen
from schemas.errors import ConfigError, ServeError
from schemas.serve import ServeConfig


def test_options_that_cannot_be_are_refused() -> None:
    """Before anything is loaded."""
    for wrong in (
        {"max_waiting": 3},
        {"max_body_bytes": 0},
        {"max_bytes_under_way": 5},
        {"port": 70_000},
        {"port": -1},
        {"num_lanes": 0},
        {"deadline_seconds": float("nan")},
    ):
        with pytest.raises(ConfigError) as caught:
            ServeConfig(**wrong)
        assert next(iter(wrong)) in caught.value.what
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(ServeError) as refused:
            listen(ServeConfig(port=taken.getsockname()[1]))
        assert refused.value.where == "--host, --port"
        with pytest.raises(ServeError):
            listen(ServeConfig(host="no.such.host.invalid", port=0))
    with listen(ServeConfig(port=0)) as free, pytest.raises(ServeError):
        # Two services that are started together; neither has loaded anything yet.
        listen(ServeConfig(port=free.getsockname()[1]))


def test_without_its_packages_the_command_says_how_to_get_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """They are optional: all else works without them."""
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    done = CliRunner().invoke(cli.main, ["serve", "a1", "--workspace", str(tmp_path)])
    assert done.exit_code == 1
    assert "pip install -r requirements-serve.txt -c constraints.txt" in done.output
