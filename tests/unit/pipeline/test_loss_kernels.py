"""The kernels of a GPU, run by Triton's interpreter, against float64."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
CHECK = """
import json, torch
from pipeline.loss_kernels import LogProbabilities

torch.manual_seed(0)
found = []
for dtype, num_rows, num_classes, num_more in CASES:
    whole = (5 * torch.randn(num_rows, num_classes + num_more) + 100).to(getattr(torch, dtype))
    logits = whole[:, :num_classes]
    said, expected = LogProbabilities(logits), logits.double().log_softmax(dim=1)
    index, scale = torch.randint(num_classes, (num_rows, 7)), torch.randn(num_rows)
    softmax, right = said.scaled_softmax(scale), expected.exp() * scale[:, None]
    found.append({
        "entries": (said.gather(1, index) - expected.gather(1, index)).abs().max().item(),
        "sums": (said.sum(1) / expected.sum(1) - 1).abs().max().item(),
        "softmax": ((softmax - right).norm() / right.norm()).item(),
        "stride": softmax.stride(0) == logits.stride(0),
        "dtype": str(softmax.dtype),
    })
print(json.dumps(found))
"""
CASES = [
    ("float32", 5, 24, 0),
    ("float32", 2, 9001, 7),  # three blocks of columns
    ("bfloat16", 3, 4350, 2),
    ("bfloat16", 2, 4096, 0),  # one block, full
]


@pytest.mark.timeout(300)
def test_the_kernels_equal_the_formulas() -> None:
    """In a process of its own: Triton looks at the variable when it is imported."""
    done = subprocess.run(
        [sys.executable, "-c", CHECK.replace("CASES", repr(CASES))],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for (dtype, *_), found in zip(CASES, json.loads(done.stdout), strict=True):
        assert found["dtype"] == f"torch.{dtype}"
        assert found["stride"]
        assert found["entries"] < 1e-4
        assert found["sums"] < 1e-6
        assert found["softmax"] < (1e-5 if dtype == "float32" else 8e-3)
