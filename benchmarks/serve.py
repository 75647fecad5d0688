"""The service against `predict` on the same items, by 1, 8 and 64 clients.

Trains a run on a made-up catalog, lets `python cli.py predict` answer it as a table, then starts
`python cli.py serve` and sends the same items one a request over kept connections, from this
process. Prints both sides and their ratio, once more for 16 items a request, and for a service
whose batches are of one item; appends all to benchmarks/results/serve.json. Client and service
share the machine's cores.

    python benchmarks/serve.py [--models ViT-B-32,shelfwise-tiny] [--items 192,1000] [--size 500]

About 10 minutes on 2 cores; 4 for 192 items of ViT-B-32 alone.
"""

import argparse
import asyncio
import base64
import contextlib
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pictures import make_catalog
from record import append

ROOT = Path(__file__).parents[1]
RUN = "a1"
CLIENTS = (1, 8, 64)
_SERIAL_SHARE = 4  # one client sends only every so many items
_TOGETHER = 16  # items a request


def main() -> None:
    """Measure both encoders."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="ViT-B-32,shelfwise-tiny")
    parser.add_argument("--items", default="192,1000", help="of each model")
    parser.add_argument("--size", type=int, default=500, help="longer side of pictures")
    parser.add_argument("--note", default="", help="kept with the figures")
    options = parser.parse_args()
    for model, num_items in zip(
        options.models.split(","), map(int, options.items.split(",")), strict=True
    ):
        with tempfile.TemporaryDirectory() as folder:
            figures = measure(Path(folder), model, num_items, options.size)
        append("serve", {"note": options.note, **figures})


def measure(folder: Path, model: str, num_items: int, size: int) -> dict[str, Any]:
    """Return the figures of one encoder."""
    items, labels, files = make_catalog(folder, num_items=num_items, size=size, repeats=0)
    place = ["--workspace", str(folder / "workspace")]
    weights = ["--pretrained", "random"] if model != "shelfwise-tiny" else []
    catalog = ["--items", str(items), "--labels", str(labels)]
    call("plan", *catalog, "--model", model, *weights, *place)
    call("embed", "--all", *place)
    call("neighbors", *place)
    call("fit", "--approach", "1", "--epochs", "2", *place)
    pictures = sorted(files.glob("*.jpg"))
    requests = [request(path) for path in pictures]
    together = [
        json_request(pictures[start : start + _TOGETHER])
        for start in range(0, len(pictures), _TOGETHER)
    ]
    table = [*catalog[:2], "--out", str(folder / "answers.parquet"), "--json", *place]
    rates = [predicted(table) for _ in range(2)]
    sides = {}
    for name, batch in (("default", []), ("batches of one", ["--batch-size", "1"])):
        with service([*batch, *place]) as address:
            for num_clients in CLIENTS:
                sent = requests[:: _SERIAL_SHARE if num_clients == 1 else 1]
                sides[f"{name}, {num_clients}"] = load(address, sent, num_clients)
            if not batch:
                found = load(address, together, 8)
                found["items_per_second"] *= len(pictures) / len(together)
                sides[f"{name}, 8 of {_TOGETHER} items"] = found
    rates.append(predicted(table))
    return report(model, num_items, size, max(rates), sides)


def call(*arguments: str) -> str:
    """Run a command of the project."""
    command = [sys.executable, "cli.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{arguments}: {done.stderr}")
    return done.stdout


def predicted(table: list[str]) -> float:
    """Return items/s of `predict`, from the first item to the finished file."""
    found = json.loads(call("predict", RUN, *table))
    return found["num_items"] / found["seconds"]


@contextlib.contextmanager
def service(options: list[str]) -> Iterator[tuple[str, int]]:
    """Run the service; give its host and port."""
    with subprocess.Popen(
        [sys.executable, "cli.py", "serve", RUN, "--port", "0", *options],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.match(r"ready: http://(\S+):(\d+)", line):
                yield found[1], int(found[2])
                break
        process.send_signal(signal.SIGTERM)
        process.stderr.read()


def request(picture: Path) -> bytes:
    """Return the bytes of a form with one item."""
    edge = "shelfwise-benchmark"
    title = picture.with_suffix(".txt").read_text().encode()
    head = b'Content-Disposition: form-data; name="%b"%b\r\n\r\n%b'
    parts = [
        head % (b"title", b"", title),
        head % (b"image", b'; filename="a.jpg"', picture.read_bytes()),
    ]
    body = b"".join(b"--%b\r\n%b\r\n" % (edge.encode(), part) for part in parts)
    body += f"--{edge}--\r\n".encode()
    headers = (
        f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        f"Content-Type: multipart/form-data; boundary={edge}\r\n\r\n"
    )
    return headers.encode() + body


def json_request(pictures: list[Path]) -> bytes:
    """Return the bytes of a request for several items."""
    items = [
        {
            "title": picture.with_suffix(".txt").read_text(),
            "image": base64.b64encode(picture.read_bytes()).decode(),
        }
        for picture in pictures
    ]
    body = json.dumps({"items": items}).encode()
    headers = (
        f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        "Content-Type: application/json\r\n\r\n"
    )
    return headers.encode() + body


def load(address: tuple[str, int], requests: list[bytes], num_clients: int) -> dict[str, float]:
    """Send all requests by some clients, each as fast as it is answered."""
    seconds: list[float] = []

    async def client(waiting: Iterator[bytes]) -> None:
        reader, writer = await asyncio.open_connection(*address)
        for each in waiting:
            started = time.perf_counter()
            writer.write(each)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            found = re.search(rb"content-length: (\d+)", head)
            assert found
            await reader.readexactly(int(found[1]))
            seconds.append(time.perf_counter() - started)
        writer.close()

    async def run() -> None:
        waiting = iter(requests)
        await asyncio.gather(*(client(waiting) for _ in range(num_clients)))

    started = time.perf_counter()
    asyncio.run(run())
    passed = time.perf_counter() - started
    p50, p99 = np.percentile(seconds, [50, 99])
    return {
        "items_per_second": len(requests) / passed,
        "p50_ms": 1000 * float(p50),
        "p99_ms": 1000 * float(p99),
    }


def report(
    model: str, num_items: int, size: int, rate: float, sides: dict[str, dict[str, float]]
) -> dict[str, Any]:
    """Print one encoder's figures."""
    print(f"{model}, {num_items} items with pictures of {size} px; predict: {rate:.1f} items/s")
    print(f"  {'batches, clients':<24}{'items/s':>10}{'/ predict':>10}{'p50 ms':>10}{'p99 ms':>10}")
    for name, found in sides.items():
        share = found["items_per_second"] / rate
        print(
            f"  {name:<24}{found['items_per_second']:>10.1f}{share:>10.2f}"
            f"{found['p50_ms']:>10.0f}{found['p99_ms']:>10.0f}",
            flush=True,
        )
    gain = (
        sides["default, 64"]["items_per_second"] / sides["batches of one, 64"]["items_per_second"]
    )
    print(f"  batching at 64 clients: x {gain:.2f}")
    return {
        "model": model,
        "items": num_items,
        "size": size,
        "predict_items_per_second": rate,
        "serve": sides,
        "batching_gain": gain,
    }


if __name__ == "__main__":
    main()
