"""Embed a folder of NNN.jpg and NNN.txt with clip-retrieval's own inference, and time it.

Its reader, preprocessing, batching, mapper, writer and logger run unmodified, with the defaults of
`clip-retrieval inference` but for the batch size and the number of workers, which are options
here. It runs in a virtual environment of its own, since it wants NumPy 1 and open_clip 2:

    python3.11 -m venv peer
    peer/bin/pip install clip-retrieval==2.45.0 torch==2.15.0 torchvision==0.29.2 "setuptools<82"
    peer/bin/python benchmarks/peers/clip_retrieval_inference.py --images FOLDER \
        --checkpoint FILE.safetensors --model ViT-B-32 --out FOLDER

(setuptools because clip-anytorch, which it imports, needs pkg_resources. 7 GB on disk. The two
towers' rate under open_clip 2.32.0, which pip picks, equals that under 3.3.0.)

The files reader fails with KeyError '000.txt' when images and texts are both enabled, in 2.41.0 to
2.45.0 (issues 345 and 352, open): it looks pictures up by the name of the text file. So this runs
it once for images and once for texts, and adds both times. Rows are in order of file name.

Prints one line of JSON. `seconds` is what its Runner spends from the first request for a batch
(the workers start there) to the end of the writer's flush. Excluded are interpreter start,
imports, model load, its own warm-up, and its two logger processes, which spawn and import torch:
the clock starts when they are idle, on Linux, and stands still while they end.
"""

import argparse
import importlib.metadata
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PACKAGES = ("clip-retrieval", "torch", "open_clip_torch", "torchvision", "pillow", "numpy")
_POLL_SECONDS = 1.0
_IDLE_TICKS = 5  # of 100 in a second; the logger looks for news ten times a second


class Clock:
    """Seconds between `go` and `stop`, summed."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._started = 0.0

    def go(self) -> None:
        """Start, or go on."""
        self._started = time.perf_counter()

    def stop(self) -> None:
        """Stand still."""
        self.seconds += time.perf_counter() - self._started


def put_clock_in(clock: Clock) -> None:
    """Have clip-retrieval's Runner start and stop the clock; it does nothing else differently.

    The Runner calls logger.start(), loops over batches, then calls logger.end(), writer.flush().
    """
    from clip_retrieval.clip_inference.logger import LoggerWriter
    from clip_retrieval.clip_inference.writer import NumpyWriter

    start, end, flush = LoggerWriter.start, LoggerWriter.end, NumpyWriter.flush
    LoggerWriter.start = _around(start, after=lambda: (_wait_for_idle_children(), clock.go()))
    LoggerWriter.end = _around(end, before=clock.stop, after=clock.go)
    NumpyWriter.flush = _around(flush, after=clock.stop)


def _around(
    method: Callable[[Any], None],
    *,
    before: Callable[[], object] = lambda: None,
    after: Callable[[], object] = lambda: None,
) -> Callable[[Any], None]:
    def call(self: Any) -> None:
        before()
        method(self)
        after()

    return call


def _wait_for_idle_children() -> None:
    children = multiprocessing.active_children()
    stats = [Path(f"/proc/{child.pid}/stat") for child in children]
    if not all(stat.exists() for stat in stats):
        return
    last, idle = -1, False
    while not idle:
        time.sleep(_POLL_SECONDS)
        ticks = sum(_cpu_ticks(stat) for stat in stats)
        idle = last >= 0 and ticks - last < _IDLE_TICKS
        last = ticks


def _cpu_ticks(stat: Path) -> int:
    fields = stat.read_text(encoding="ascii").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])  # in user mode, in the kernel


def main() -> None:
    """Run both passes, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="folder of .jpg and .txt")
    parser.add_argument("--checkpoint", type=Path, required=True, help="state dict of the model")
    parser.add_argument("--model", required=True, help="open_clip's name of the model")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    args = parser.parse_args()

    stdout = os.dup(1)
    os.dup2(2, 1)  # it and its loggers print; stdout is for the line of JSON
    from clip_retrieval.clip_inference.main import main as clip_inference

    clock = Clock()
    put_clock_in(clock)
    seconds = {}
    for modality in ("image", "text"):
        before = clock.seconds
        clip_inference(
            input_dataset=str(args.images),
            output_folder=str(args.out / modality),
            input_format="files",
            enable_image=modality == "image",
            enable_text=modality == "text",
            clip_model=f"open_clip:{args.model}/{args.checkpoint.resolve()}",
            batch_size=args.batch_size,
            num_prepro_workers=args.workers,
        )
        seconds[modality] = round(clock.seconds - before, 3)
    sys.stdout.flush()
    os.dup2(stdout, 1)
    report = {
        "seconds": round(clock.seconds, 3),
        "items": len(list(args.images.glob("*.jpg"))),
        "image_emb": str(args.out / "image" / "img_emb" / "img_emb_0.npy"),
        "text_emb": str(args.out / "text" / "text_emb" / "text_emb_0.npy"),
        "seconds_by_modality": seconds,
        "batch_size": args.batch_size,
        "workers": args.workers,
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
