"""The whole pipeline on a generated catalog, offline: the first thing a stranger runs.

Writes everything into one workspace, the catalog below it. Every step reuses what is done, so a
second run takes seconds.
"""

import logging
import time
from pathlib import Path

from cache.storage import LocalStorage
from pipeline.compare import compare
from pipeline.demo.catalog import write_catalog
from pipeline.embed import embed
from pipeline.encoder import BUNDLED_MODEL, load_encoder
from pipeline.neighbors import neighbors_table, write_neighbors
from pipeline.plan import make_plan
from pipeline.progress import Progress, duration
from pipeline.report import write_report
from schemas.run import FitRuntime

logger = logging.getLogger(__name__)

SHOWN_LABEL = "Cowboy Boots"
CATALOG_SEED = 0


def run_demo(workspace: LocalStorage, *, num_items: int = 20_000, device: str = "auto") -> None:
    """Make a catalog, embed it, link the labels, fit all five approaches, print and draw what came.

    Args:
        workspace: folder to write to; the catalog goes below it.
        num_items: products to make.
        device: where to compute.
    """
    started = time.monotonic()
    catalog = workspace.root / "catalog"
    with Progress("draw catalog", num_items) as progress:
        write_catalog(catalog, num_items=num_items, seed=CATALOG_SEED, progress=progress.update)
    report = make_plan(
        workspace,
        items=catalog / "items.parquet",
        labels=catalog / "labels.csv",
        model=BUNDLED_MODEL,
        pretrained="",
        label_text="path",
        device=device,
    )
    report.table().print()
    plan = report.plan
    embed(
        workspace,
        plan,
        range(plan.num_shards),
        lambda: load_encoder(plan.encoder, device),
        with_labels=True,
    )
    write_neighbors(workspace, plan)
    neighbors_table(workspace, plan, SHOWN_LABEL).print()
    found = compare(workspace, plan, num_seeds=1, runtime=FitRuntime(device=device))
    for table in found.tables[:2]:
        table.print()
    page = write_report(workspace)
    option = (
        "" if workspace.root == Path("workspace").resolve() else f" --workspace {workspace.root}"
    )
    print(
        f"Done in {duration(time.monotonic() - started)}.\n"
        f"  look at: {page.path} (tables, figures, categories, mistakes: opens in a browser),\n"
        f"           {catalog / 'images'}\n"
        f"  curves:  tensorboard --logdir {workspace.root / 'runs'}\n"
        f"  next:    . .venv/bin/activate\n"
        f'           python cli.py neighbors --show "Rain Boots"{option}\n'
        f"           python cli.py evaluate a5-affinity-odds-s0{option}\n"
        f"           python cli.py compare --seeds 3{option}"
    )
