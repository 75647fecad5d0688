"""What clean finds of what was planted, and what that costs from 10 thousand to a million items.

    python benchmarks/clean.py planted [--items 20000] [--seed 7] [--folder FOLDER]
    python benchmarks/clean.py fits --folder FOLDER        # of planted
    python benchmarks/clean.py grocery [--folder FOLDER]
    python benchmarks/clean.py growth [--sizes 10000,100000,1000000] [--dim 512]
    python benchmarks/clean.py plot

planted: a generated catalog (planted_catalog.py), embedded by the bundled encoder; precision and
recall of duplicates at the default thresholds, and precision and recall of swapped pictures and
labels by several rankings. fits: approach 5 with and without what clean found, three seeds, on
clean test items. grocery: photographs, the pictures of 2% swapped. plot draws both as
docs/clean.png. growth: simulated embeddings with 5% near duplicates; seconds,
peak memory of a process of its own, recall against the planted pairs and against exact search.
Appends to benchmarks/results/clean.json. About 5, 2 and 15 minutes on 2 cores.

N items, D embedding width.
"""

import argparse
import json
import logging
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import torch
from planted_catalog import COPIES, SWAPS, make_planted_catalog
from record import RESULTS, append
from simulated import embedded_rows, make_workspace
from sklearn.metrics import average_precision_score, precision_recall_curve

sys.path.insert(0, str(Path(__file__).parents[1]))

from cache.layout import MODALITIES, parquet_table
from cache.reader import Cache, read_all_items, read_plan
from cache.storage import LocalStorage
from cache.writer import ShardWriter
from pipeline.clean import clean, standings
from pipeline.clean_table import CLEAN_TABLE
from pipeline.device import pick_device
from pipeline.embed import embed
from pipeline.encoder import load_encoder
from pipeline.fit import fit_all
from pipeline.label_quality import label_quality
from pipeline.neighbors import write_neighbors
from pipeline.picture_margins import picture_margins
from pipeline.plan import make_plan
from pipeline.predictions import Classifier, predict
from pipeline.progress import Progress
from pipeline.runs import load_run
from pipeline.significance import Ratio, change
from pipeline.tensors import FitData
from schemas.clean import EXACT, NEAR, CleanConfig
from schemas.plan import Plan
from schemas.run import FitConfig

DOCS = Path(__file__).parents[1] / "docs"
GROCERY = Path(__file__).parents[2] / "shared/data/grocery"

NUM_SEEDS = 3
SHARE = 0.05
NUM_SHELVES = 1000
_POOL = 65_536
_RANK = 64


def measure_planted(folder: Path, num_items: int, seed: int) -> dict[str, Any]:
    """Plan, embed and clean a planted catalog; return what was found of what."""
    make_planted_catalog(folder, num_items=num_items, seed=seed)
    files = {"items": folder / "items.parquet", "labels": folder / "labels.csv"}
    workspace, plan = embedded(folder / "workspace", **files)
    started = time.perf_counter()
    found = clean(workspace, plan, CleanConfig(check_labels=True))
    seconds = time.perf_counter() - started
    table, truth = found.table, pq.read_table(folder / "truth.parquet").to_pylist()
    at = {item: row for row, item in enumerate(table["item_id"].to_pylist())}
    group, reason = table["group"].to_pylist(), np.array(table["reason"].to_pylist(), object)
    recall: dict[str, float] = {}
    copies: set[int] = set()
    for kind in COPIES:
        pairs = [(at[e["item_id"]], at[e["other"]]) for e in truth if e["kind"] == kind]
        hits = [group[a] is not None and group[a] == group[b] for a, b in pairs]
        recall[kind] = float(np.mean(hits))
        copies |= {row for pair in pairs for row in pair}
    gone = {name: set(np.flatnonzero(reason == name).tolist()) for name in (EXACT, NEAR)}
    swapped = {kind: [at[e["item_id"]] for e in truth if e["kind"] == kind] for kind in SWAPS}
    return {
        "what": "planted",
        "items": len(table),
        "seconds": seconds,
        "recall": recall,
        "near_recall": float(np.mean([recall[kind] for kind in COPIES[1:]])),
        "near_precision": len(gone[NEAR] & copies) / len(gone[NEAR]),
        "exact_precision": len(gone[EXACT] & copies) / len(gone[EXACT]),
        "curves": swap_curves(workspace, plan, swapped),
    }


def measure_grocery(folder: Path, seed: int) -> dict[str, Any]:
    """Swap the pictures of 2% of the grocery photographs, then clean."""
    items = pa.csv.read_csv(GROCERY / "items.csv").to_pylist()
    rng = random.Random(f"planted {seed}")
    rest = rng.sample(range(len(items)), len(items))
    swapped = []
    for _ in range(round(0.01 * len(items))):
        one = rest.pop()
        other = next(i for i in reversed(rest) if items[i]["label_id"] != items[one]["label_id"])
        rest.remove(other)
        a, b = items[one], items[other]
        a["image_path"], b["image_path"] = b["image_path"], a["image_path"]
        swapped += [a["item_id"], b["item_id"]]
    folder.mkdir(parents=True, exist_ok=True)
    pa.csv.write_csv(pa.Table.from_pylist(items), folder / "items.csv")
    files = {"items": folder / "items.csv", "labels": GROCERY / "labels.csv"}
    workspace, plan = embedded(folder / "workspace", **files, items_root=GROCERY)
    found = clean(workspace, plan, CleanConfig(check_labels=True))
    at = {str(item): row for row, item in enumerate(found.table["item_id"].to_pylist())}
    rows = [at[str(item)] for item in swapped]
    return {
        "what": "grocery",
        "items": len(items),
        "curves": swap_curves(workspace, plan, {SWAPS[0]: rows}),
    }


def embedded(folder: Path, **files: Any) -> tuple[LocalStorage, Plan]:
    """Plan and embed a catalog with the bundled encoder, up to the label graph."""
    workspace = LocalStorage(folder)
    make_plan(workspace, **files, model="shelfwise-tiny", pretrained="", label_text="path")
    plan = read_plan(workspace)
    shards = range(plan.num_shards)
    embed(workspace, plan, shards, lambda: load_encoder(plan.encoder), with_labels=True)
    write_neighbors(workspace, plan)
    return workspace, plan


def swap_curves(
    workspace: LocalStorage, plan: Plan, swapped: dict[str, list[int]]
) -> dict[str, dict[str, Any]]:
    """Return precision and recall of swapped items by every ranking that might find them."""
    cosine = Cache(workspace, plan).read_rows(["image_title_cosine"])[0].to_numpy()
    labels = read_all_items(workspace, plan)["label"].to_numpy().astype(np.int64)
    keep = np.flatnonzero(parquet_table(workspace.read(CLEAN_TABLE))["keep"].to_numpy())
    believed = parquet_table(workspace.read("report/labels.parquet"))
    by_both = np.full(len(labels), np.nan)
    by_both[believed["row"].to_numpy()] = believed["quality"].to_numpy()
    data = FitData(workspace, plan, pick_device("auto"), clean=False)
    alone = label_quality(data, keep, config=FitConfig(approach="1", modalities="image"))
    by_picture = np.full(len(labels), np.nan)
    by_picture[alone.rows] = alone.quality
    cache = Cache(workspace, plan)
    some = np.flatnonzero(cache.read_rows(["image_ok"])[0].to_numpy())
    margins = picture_margins(lambda rows: cache.read_random("image", rows), some, labels[some])
    by_others = np.full(len(labels), np.nan)
    by_others[some] = margins.margin
    rankings = {
        "image-title cosine": cosine,
        "for its category (default)": standings(cosine, labels),
        "label believed (--check-labels)": by_both,
        "label believed, pictures only": by_picture,
        "picture among pictures (--check-pictures)": by_others,
    }
    curves: dict[str, dict[str, Any]] = {}
    for kind, rows in swapped.items():
        is_swapped = np.zeros(len(labels), bool)
        is_swapped[rows] = True
        for name, low in rankings.items():
            ranked = ~np.isnan(low)
            precision, recall, _ = precision_recall_curve(is_swapped[ranked], -low[ranked])
            # Recall falls; of each hundredth of it the first point, and none of recall 0.
            shown = np.unique(np.ceil(100 * recall), return_index=True)[1][1:]
            curves[f"{kind}: {name}"] = {
                "average_precision": float(
                    average_precision_score(is_swapped[ranked], -low[ranked])
                ),
                "precision_at_half": float(precision[recall >= 0.5].max()),
                "precision": precision[shown].round(3).tolist(),
                "recall": recall[shown].round(3).tolist(),
            }
    return curves


def measure_fits(folder: Path) -> dict[str, Any]:
    """Fit on the planted catalog as it is and as cleaned; compare on clean test items.

    Those are of test, kept, not planted and in no group: nobody saw a copy of them.
    """
    workspace = LocalStorage(folder / "workspace")
    plan = read_plan(workspace)
    truth = pq.read_table(folder / "truth.parquet").to_pylist()
    planted = {item for each in truth for item in (each["item_id"], each["other"])}
    table = parquet_table(workspace.read(CLEAN_TABLE))
    is_clean = table["group"].is_null().to_numpy() & table["keep"].to_numpy()
    is_clean &= np.array([item not in planted for item in table["item_id"].to_pylist()])
    outcomes: dict[bool, list[Any]] = {True: [], False: []}
    for cleaned in outcomes:
        data = FitData(workspace, plan, pick_device("auto"), clean=cleaned)
        configs = [FitConfig(approach="5", seed=seed, clean=cleaned) for seed in range(NUM_SEEDS)]
        test = data.test[torch.from_numpy(is_clean)[data.test]]
        for run in fit_all(workspace, data, configs):
            network, record = load_run(workspace, run.name, data)
            said = predict(Classifier([(network, record.config.modalities)]), data, test)
            labels = data.labels[test].numpy()
            found = said.top_labels == labels[:, None]
            outcomes[cleaned].append((found[:, 0], found[:, :5].any(axis=1)))
    figures: dict[str, Any] = {"what": "fits", "test_items": len(test), "seeds": NUM_SEEDS}
    for place, name in enumerate(("top1", "top5")):
        # Shares of items, so that all denominators are 1.
        sides = {
            side: np.mean([seed[place] for seed in seeds], axis=0)
            for side, seeds in outcomes.items()
        }
        ones = np.ones(len(test))
        found = change(Ratio(sides[True], ones), Ratio(sides[False], ones))
        figures[name] = {
            "cleaned": float(sides[True].mean()),
            "raw": float(sides[False].mean()),
            "change": found.value,
            "interval": [found.low, found.high],
        }
    return figures


def plot() -> None:
    """Draw the latest curves as docs/clean.png."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    lines = [json.loads(line) for line in (RESULTS / "clean.json").read_text().splitlines()]
    latest = {line["what"]: line for line in lines if "curves" in line}
    panels = [("planted", SWAPS[0]), ("planted", SWAPS[1]), ("grocery", SWAPS[0])]
    figure, axes = pyplot.subplots(1, 3, figsize=(13, 4.2), layout="constrained", sharey=True)
    for axis, (what, kind) in zip(axes, panels, strict=True):
        for name, curve in latest[what]["curves"].items():
            if name.startswith(f"{kind}: "):
                axis.plot(curve["recall"], curve["precision"], label=name.removeprefix(f"{kind}: "))
        catalog = "photographs of groceries" if what == "grocery" else "drawn catalog"
        axis.set(title=f"{kind}s, {catalog}", xlabel="recall", xlim=(0, 1), ylim=(0, 1.02))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("precision")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.savefig(DOCS / "clean.png", dpi=120)


def make_simulated(workspace: LocalStorage, num_items: int, dim: int) -> None:
    """Write a cache of items on shelves, 5% of them near copies: one modality a little off."""
    plan = make_workspace(workspace, num_items, dim)
    rng = np.random.default_rng(0)
    # Kinds of products differ in fewer directions than products do.
    shelves = rng.standard_normal((NUM_SHELVES, _RANK), np.float32)
    shelves = shelves @ rng.standard_normal((_RANK, dim), np.float32) * (2 / _RANK**0.5)
    pool = rng.standard_normal((_POOL, dim), np.float32)
    num_copies = round(SHARE * num_items)
    of = rng.permutation(num_items - num_copies)[:num_copies]  # the last rows copy these
    original = np.concatenate([np.arange(num_items - num_copies), of])
    with Progress(f"simulate {num_items:,} items", num_items) as progress:
        for shard in range(plan.num_shards):
            with ShardWriter(
                workspace, plan, shard, compute_dtype="simulated", batch_size=0
            ) as writer:
                for chunk in writer.missing:
                    start, stop = writer.chunk_range(chunk)
                    rows = original[start:stop]
                    is_copy = rows != np.arange(start, stop)
                    views = {}
                    for place, name in enumerate(MODALITIES):
                        # Two of the pool, by row: an item's own, the same for its copy.
                        mixed = pool[(rows * 7919 + place) % _POOL]
                        mixed = mixed + pool[(rows // _POOL * 104_729 + rows + 17 * place) % _POOL]
                        emb = shelves[rows % NUM_SHELVES] + 0.7 * mixed
                        off = is_copy & (np.arange(start, stop) % 2 == place)
                        noise = pool[np.arange(start, stop)[off] * 31 % _POOL]
                        emb[off] += 0.2 * noise
                        emb /= np.linalg.norm(emb, axis=1, keepdims=True)
                        views[name] = emb
                    writer.write(chunk, **views, rows=embedded_rows(start, stop))
                    progress.update(stop - start)
                writer.commit()
    np.save(workspace.root / "original.npy", original)


def measure_here(folder: Path) -> dict[str, Any]:
    """Clean a simulated workspace in this process."""
    workspace = LocalStorage(folder)
    plan = read_plan(workspace)
    started = time.perf_counter()
    found = clean(workspace, plan, CleanConfig())
    seconds = time.perf_counter() - started
    original = np.load(folder / "original.npy")
    copies = np.flatnonzero(original != np.arange(len(original)))
    group = found.table["group"].combine_chunks().fill_null(-1).to_numpy()
    is_found = (group[copies] >= 0) & (group[copies] == group[original[copies]])
    return {
        "what": "growth",
        "items": len(original),
        "dim": plan.encoder.embed_dim,
        "seconds": seconds,
        "microseconds_per_item": 1e6 * seconds / len(original),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "recall": float(is_found.mean()),
        "removed": int((~found.table["keep"].to_numpy()).sum()),
        "num_copies": len(copies),
        "sample_found": found.recall[0] if found.recall else None,
        "sample_pairs": found.recall[1] if found.recall else None,
    }


def main() -> None:
    """Measure, print, append."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("planted", "fits", "grocery", "growth", "plot"))
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--sizes", default="10000,100000,1000000")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if options.child:
        print(json.dumps(measure_here(options.child)))
        return
    if options.what == "plot":
        plot()
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if options.what == "fits":
            figures = measure_fits(folder)
            print(json.dumps(figures, indent=2))
            append("clean", figures)
            return
        if options.what in ("planted", "grocery"):
            if options.what == "planted":
                figures = measure_planted(folder, options.items, options.seed)
            else:
                figures = measure_grocery(folder, options.seed)
            append("clean", figures)
            for name, curve in figures.pop("curves").items():
                print(
                    f"{name}: average precision {curve['average_precision']:.3f}, precision "
                    f"{curve['precision_at_half']:.3f} at recall 0.5"
                )
            print(json.dumps(figures, indent=2))
            return
        for size in map(int, options.sizes.split(",")):
            place = folder / f"{size}x{options.dim}"
            make_simulated(LocalStorage(place), size, options.dim)
            call = [sys.executable, __file__, "growth", "--child", str(place)]
            done = subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True)
            figures = json.loads(done.stdout.splitlines()[-1])
            print(json.dumps(figures), flush=True)
            append("clean", figures)


if __name__ == "__main__":
    main()
