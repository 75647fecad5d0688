"""What a process does with its memory, in processes of their own."""

import subprocess
import sys

TOUCH = """
import resource, sys
import torch
from pipeline.device import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
for _ in range(40):  # the heap grows for the first few
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16 << 20)  # 64 MB, freed at once
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_memory_that_was_freed_needs_no_new_pages() -> None:
    faults = {}
    for how in ("returned", "kept"):
        done = subprocess.run(
            [sys.executable, "-c", TOUCH, how], capture_output=True, text=True, check=True
        )
        faults[how] = int(done.stdout)
    assert faults["kept"] < 100 < faults["returned"]
