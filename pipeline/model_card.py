"""The model card of an exported run: what it is, what it was made from, what it is good for.

V val items, C classes.
Source: Mitchell et al., "Model Cards for Model Reporting", FAT* 2019.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64
from jinja2 import Environment, StrictUndefined

from pipeline.acceptance import TARGETS, choose_threshold
from pipeline.metrics import Metrics
from pipeline.metrics_table import metrics_table
from pipeline.run_folder import RunFolder
from pipeline.targets.registry import get_approach
from schemas.tables import SPLITS

_TEMPLATE = Path(__file__).parent / "model_card.md"


def model_card(
    run: RunFolder, probabilities: Float32[np.ndarray, "V C"], truth: Int64[np.ndarray, " V"]
) -> str:
    """Return the card as Markdown.

    Args:
        run: a finished one.
        probabilities: that it gives its val items.
        truth: their labels.
    """
    record, encoder = run.record(), run.encoder()
    val = run.val()
    sees = {"both": ("image_ok", "title_ok"), "image": ("image_ok",), "title": ("title_ok",)}
    can = np.any([val[name].numpy() for name in sees[record.config.modalities]], axis=0)
    confidence = np.where(can, probabilities.max(axis=1), -np.inf)
    is_right = can & (probabilities.argmax(axis=1) == truth)
    thresholds = []
    for target in TARGETS:
        least = choose_threshold(confidence, is_right, target)
        is_reached = least < np.inf
        thresholds.append(
            (
                f"{target:.0%} right",
                f"{least:.4f}" if is_reached else "not reached",
                f"{(confidence >= least).mean():.1%}",
            )
        )
    metrics = run.read_json(Metrics, "metrics.json")
    network = run.network(
        record.config, embed_dim=encoder.embed_dim, num_classes=probabilities.shape[1]
    )
    approach = get_approach(record.config.approach)
    has_codes = approach.has_codes
    template = Environment(undefined=StrictUndefined, keep_trailing_newline=True).from_string(
        _TEMPLATE.read_text(encoding="utf-8")
    )
    return template.render(
        run=run,
        record=record,
        config=record.config,
        encoder=encoder,
        approach=approach.title,
        has_codes=has_codes,
        labels=probabilities.shape[1],
        parameters=sum(each.numel() for each in network.parameters()),
        modalities={"both": "picture and title"}.get(
            record.config.modalities, f"the {record.config.modalities} only"
        ),
        splits=", ".join(f"{record.num_items[name]:,} {name}" for name in SPLITS),
        inputs=", ".join(
            value[:12]
            for value in (
                record.inputs.cache_sha256,
                record.inputs.items_sha256,
                record.inputs.graph_sha256,
                *[record.inputs.codes_sha256] * has_codes,
            )
        ),
        metrics=metrics_table(
            metrics, title=f"On {metrics.num_items:,} test items", note=""
        ).markdown(),
        num_val=len(truth),
        thresholds=thresholds,
    )
