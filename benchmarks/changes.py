"""Change a catalog by 1% each way, and its taxonomy, and compare with planning anew.

    python benchmarks/changes.py --folder FOLDER [--items 20000] [--seeds 3]

Makes a demo catalog; plans and embeds 99% of it; appends the last 1% together with 1% changed and
1% unchanged items, deletes 1%; embeds what is missing. Beside it the final catalog is planned and
embedded from nothing, with the same splits. Prints how many items each embedded, and top1 of both
over seeds. Then five labels are added, three renamed, two removed and one split: prints what
changed, and fits again. Appends to benchmarks/results/changes.json.
"""

import argparse
import hashlib
import json
import logging
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from record import append

sys.path.insert(0, str(Path(__file__).parents[1]))

from cache.reader import read_all_items, read_plan
from cache.storage import LocalStorage
from pipeline.catalog_changes import append_items, delete_items, relabel_items
from pipeline.demo.catalog import write_catalog
from pipeline.device import pick_device
from pipeline.embed import embed
from pipeline.encoder import load_encoder
from pipeline.fit import fit_all
from pipeline.label_changes import UNLABELED, update_labels
from pipeline.neighbors import write_neighbors
from pipeline.plan import make_plan
from pipeline.tensors import FitData
from schemas.commit import ShardCommit
from schemas.configs import from_json
from schemas.run import FitConfig

SHARD_ROWS, CHUNK_ROWS = 4096, 1024


def main() -> None:
    """Run both ways and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="empty, for catalog and caches")
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    catalog = options.folder / "catalog"
    write_catalog(catalog, num_items=options.items, seed=3)
    files = make_changes(catalog)
    changed, anew = (LocalStorage(options.folder / name) for name in ("changed", "anew"))
    first = timed(lambda: plan_and_embed(changed, catalog, files["base"]))
    delete_items(changed, files["deleted"])
    found = append_items(changed, files["append"])
    second = timed(lambda: embed_missing(changed))
    write_final(changed, files["final"])
    whole = timed(lambda: plan_and_embed(anew, catalog, files["final"]))
    print(
        f"{found.counts}; embedded {first['items']:,} items in {first['seconds']:.1f} s, then "
        f"{second['items']:,} in {second['seconds']:.1f} s; from nothing {whole['items']:,} in "
        f"{whole['seconds']:.1f} s"
    )
    both = {"changed": changed, "anew": anew}
    top1 = {name: fitted(each, options.seeds) for name, each in both.items()}
    for name, values in top1.items():
        print(f"{name}: top1 {np.mean(values):.2f} +- {np.std(values, ddof=1):.2f} ({values})")
    before = chunk_hashes(changed)
    taxonomy = change_taxonomy(changed, catalog)
    is_same = chunk_hashes(changed) == before
    after = fitted(changed, 1)
    print(f"taxonomy: {taxonomy}; item embeddings byte for byte: {is_same}; top1 {after[0]:.2f}")
    append(
        "changes",
        {
            "items": options.items,
            "counts": found.counts,
            "embedded": {"first": first, "second": second, "anew": whole},
            "top1": top1,
            "taxonomy": taxonomy,
            "item_embeddings_stay": is_same,
            "top1_after": after,
        },
    )


def make_changes(catalog: Path) -> dict[str, Path]:
    """Write what is planned first, appended and deleted; 1% each of new, changed, same, deleted."""
    table = pq.read_table(catalog / "items.parquet")
    rng, num = random.Random(0), len(table) // 100
    base = table.slice(0, len(table) - num)
    rows = base.to_pylist()
    drawn = rng.sample(range(len(rows)), 3 * num)
    changed = [dict(rows[i]) for i in drawn[:num]]
    for number, row in enumerate(changed):
        if number % 2:
            row["title"] += " new edition"
        else:
            row["image_path"] = rows[(drawn[number] + 7) % len(rows)]["image_path"]
    given = [
        *table.slice(len(base)).to_pylist(),
        *changed,
        *(rows[i] for i in drawn[num : 2 * num]),
    ]
    files = {name: catalog / f"{name}.parquet" for name in ("base", "append", "final")}
    files["deleted"] = catalog / "deleted.txt"
    pq.write_table(base, files["base"])
    pq.write_table(pa.Table.from_pylist(given, schema=table.schema), files["append"])
    gone = {rows[i]["item_id"] for i in drawn[2 * num :]}
    files["deleted"].write_text("\n".join(sorted(gone)) + "\n")
    final = {row["item_id"]: row for row in [*rows, *given] if row["item_id"] not in gone}
    final_table = pa.Table.from_pylist(list(final.values()), schema=table.schema)
    pq.write_table(final_table, files["final"])
    return files


def write_final(workspace: LocalStorage, path: Path) -> None:
    """Give the final catalog the splits that the changed one has, to compare like with like."""
    items = read_all_items(workspace, read_plan(workspace))
    split = {
        row["item_id"]: row["split"]
        for row in items.select(["item_id", "split"]).to_pylist()
        if row["split"]
    }
    table = pq.read_table(path)
    assert set(split) == set(table["item_id"].to_pylist())
    splits = [split[item_id] for item_id in table["item_id"].to_pylist()]
    pq.write_table(table.append_column("split", pa.array(splits)), path)


def plan_and_embed(workspace: LocalStorage, catalog: Path, items: Path) -> int:
    """Plan a catalog and embed it; return how many items were embedded."""
    make_plan(
        workspace,
        items=items,
        labels=catalog / "labels.csv",
        model="shelfwise-tiny",
        pretrained="",
        label_text="path",
        shard_rows=SHARD_ROWS,
        chunk_rows=CHUNK_ROWS,
    )
    return embed_missing(workspace)


def embed_missing(workspace: LocalStorage) -> int:
    """Embed what is missing; return how many items that were."""
    plan = read_plan(workspace)
    before = set(workspace.sizes("cache/commits"))
    embed(
        workspace,
        plan,
        range(plan.num_shards),
        lambda: load_encoder(plan.encoder),
        with_labels=True,
    )
    new = set(workspace.sizes("cache/commits")) - before
    commits = [
        from_json(ShardCommit, workspace.read(name).decode(), where=name, fix="")
        for name in new
        if not name.endswith("labels.json")
    ]
    return sum(commit.stop - commit.start for commit in commits)


def timed(work: Any) -> dict[str, float]:
    """Return the items that were embedded, and the seconds."""
    started = time.perf_counter()
    return {"items": work(), "seconds": round(time.perf_counter() - started, 2)}


def fitted(workspace: LocalStorage, num_seeds: int) -> list[float]:
    """Return top1 of approach 5 on test, in percent, seed by seed."""
    plan = read_plan(workspace)
    write_neighbors(workspace, plan)
    data = FitData(workspace, plan, pick_device("auto"))
    configs = [FitConfig(approach="5", seed=seed) for seed in range(num_seeds)]
    return [round(100 * run.metrics.top1, 3) for run in fit_all(workspace, data, configs)]


def chunk_hashes(workspace: LocalStorage) -> dict[str, str]:
    """Hash every chunk file of the items."""
    return {
        name: hashlib.sha256(workspace.read(name)).hexdigest()
        for array in ("image", "title")
        for name in workspace.sizes(f"cache/{array}.zarr/c")
    }


def change_taxonomy(workspace: LocalStorage, catalog: Path) -> dict[str, Any]:
    """Add five labels, rename three, split one, remove two; relabel what the split leaves."""
    labels = pa.csv.read_csv(catalog / "labels.csv").to_pylist()
    split, *removed = labels[10], labels[20], labels[30]
    for label in labels[:3]:
        label["name"] += " (renamed)"
        label["path"] += " (renamed)"
    labels = [label for label in labels if label not in (split, *removed)]
    halves = [
        {"label_id": f"{split['label_id']}-{half}", "name": f"{split['name']} {half}"}
        for half in ("A", "B")
    ]
    added = [{"label_id": f"new-{i}", "name": f"New Shelf {i}"} for i in range(5)]
    parent = split["path"].rpartition(" > ")[0]
    for label in halves + added:
        label["path"] = f"{parent} > {label['name']}"
    labels = added + labels + halves  # other numbers for every label
    pa.csv.write_csv(pa.Table.from_pylist(labels), catalog / "labels-changed.csv")
    found = update_labels(workspace, catalog / "labels-changed.csv")
    rows = pa.csv.read_csv(workspace.path(UNLABELED)).to_pylist()
    mine = [row["item_id"] for row in rows if row["old_label_id"] == split["label_id"]]
    table = pa.table(
        {"item_id": mine, "label_id": [halves[i % 2]["label_id"] for i in range(len(mine))]}
    )
    pq.write_table(table, catalog / "relabel.parquet")
    relabeled = relabel_items(workspace, catalog / "relabel.parquet")
    embed_missing(workspace)
    return json.loads(json.dumps(found.counts | relabeled.counts))


if __name__ == "__main__":
    main()
