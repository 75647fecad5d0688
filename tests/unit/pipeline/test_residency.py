"""Where the embeddings are kept while a run trains."""

from pathlib import Path

import psutil
import pytest
import torch

from pipeline import residency
from pipeline.ranks import Ranks
from pipeline.residency import choose_residency, free_bytes
from schemas.errors import FitError

CPU = torch.device("cpu")
GPU = torch.device("cuda")  # only its name is used: no GPU is needed


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Let a machine and its GPU have so much free memory."""
    found = {"cpu": 1000, "cuda": 100}
    monkeypatch.setattr(residency, "free_bytes", lambda device: found[device.type])
    return found


@pytest.mark.parametrize(
    ("num_bytes", "on_gpu", "on_cpu"),
    [
        (10, "device", "host"),
        (70, "device", "host"),
        (71, "host", "host"),
        (701, "stream", "stream"),
    ],
)
def test_auto_takes_the_fastest_place_with_room(
    free: dict[str, int], num_bytes: int, on_gpu: str, on_cpu: str
) -> None:
    """Weights, logits and everybody else need the rest."""
    assert choose_residency("auto", num_bytes, GPU) == on_gpu
    assert choose_residency("auto", num_bytes, CPU) == on_cpu


def test_processes_of_a_machine_share_its_memory_and_take_one_place(free: dict[str, int]) -> None:
    """One that streams and one that does not would see other orders."""
    ranks = Ranks(0, 2, 2)
    ranks.all_of = lambda value: [value, "host"]
    assert choose_residency("auto", 60, GPU, ranks) == "host"
    assert choose_residency("auto", 351, CPU, ranks) == "stream"
    with pytest.raises(FitError, match="do not fit"):
        choose_residency("host", 501, CPU, ranks)


def test_what_is_asked_for_is_taken_or_refused(free: dict[str, int]) -> None:
    """Never another place in silence."""
    assert choose_residency("device", 90, GPU) == "device"
    assert choose_residency("host", 90, GPU) == "host"
    assert choose_residency("stream", 90, GPU) == "stream"
    assert choose_residency("device", 900, CPU) == "host"  # one and the same
    for asked, num_bytes in (("device", 101), ("host", 1001)):
        with pytest.raises(FitError, match="do not fit") as caught:
            choose_residency(asked, num_bytes, GPU)
        assert caught.value.where == f"--residency {asked}"
        assert "stream" in caught.value.fix


def test_a_limit_of_the_cgroup_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A container sees the whole machine's memory and is killed at its own limit."""
    monkeypatch.setattr(residency, "_CGROUP", tmp_path)
    machine = psutil.virtual_memory().available
    assert free_bytes(CPU) == pytest.approx(machine, rel=0.2)  # no such files
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    assert free_bytes(CPU) == pytest.approx(machine, rel=0.2)
    (tmp_path / "memory.max").write_text("5000000\n")
    assert free_bytes(CPU) == 4_000_000
    (tmp_path / "memory.stat").write_text("anon 7\ninactive_file 300000\n")
    assert free_bytes(CPU) == 4_300_000
    (tmp_path / "memory.current").write_text("6000000\n")
    assert free_bytes(CPU) == 0
