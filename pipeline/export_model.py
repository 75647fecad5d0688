"""Write a run's network for others: ONNX, its labels, its encoder and a model card.

Takes the folder alone. model.onnx maps embeddings to probabilities and is compared with torch on
the run's val items before anything is written.

B batch, D embedding width, C classes.
"""

import contextlib
import io
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.csv
import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor, nn

from cache.storage import LocalStorage
from pipeline.fusion import FusionNetwork
from pipeline.locations import local_path
from pipeline.model_card import model_card
from pipeline.predictions import EVAL_BATCH, Inputs
from pipeline.run_folder import ENCODER, RunFolder
from pipeline.text_table import TextTable
from schemas.errors import ExportError

MODEL = "model.onnx"
TOLERANCE = 1e-4
_TIE = 1e-6  # two labels so close may come in either order


@dataclass(frozen=True, kw_only=True)
class ExportedModel:
    """What was written, and how well it agrees."""

    folder: str
    num_items: int
    """Val items that were compared."""
    max_difference: float
    """Largest difference of a probability."""
    num_other_answers: int
    """Items whose best label differs, all of them ties."""
    num_bytes: int
    """Of model.onnx."""

    def table(self) -> TextTable:
        """Return the comparison."""
        rows = (
            ("val items compared", f"{self.num_items:,}"),
            ("largest difference of a probability", f"{self.max_difference:.1e}"),
            ("other best label", f"{self.num_other_answers} (ties)"),
            ("size", f"{self.num_bytes / 1e6:.1f} MB"),
        )
        return TextTable(title="ONNX against torch", columns=("", "found"), rows=rows)


class _Probabilities(nn.Module):
    """The network as others call it."""

    def __init__(self, network: FusionNetwork, modalities: str) -> None:
        super().__init__()
        self.network, self._modalities = network, modalities

    def forward(
        self,
        image_emb: Float[Tensor, "B D"],
        title_emb: Float[Tensor, "B D"],
        image_ok: Bool[Tensor, " B"],
        title_ok: Bool[Tensor, " B"],
    ) -> Float[Tensor, "B C"]:
        inputs = Inputs(image_emb, title_emb, image_ok, title_ok).seen_by(self._modalities)
        return self.network(*inputs).softmax(dim=1)


def export_model(run: RunFolder, folder: str | Path) -> ExportedModel:
    """Write model.onnx, labels.csv, encoder.json and README.md, the model card.

    Inputs of the model: image_emb and title_emb float32 [B, D], of any content where the modality
    is missing; image_ok and title_ok bool [B]. Output: probabilities float32 [B, C].

    Args:
        run: a finished one.
        folder: local, to write to; files of an earlier export are replaced.
    Raises: FitError if the run is not finished and whole; ExportError if ONNX says otherwise than
        torch on the val items, or the folder has files of others; WorkspaceError.
    """
    out = LocalStorage(local_path(folder))
    _check_folder(out.root)
    out.check_writable()
    record, encoder, labels, val = run.record(), run.encoder(), run.labels(), run.val()
    network = run.network(record.config, embed_dim=encoder.embed_dim, num_classes=len(labels))
    module = _Probabilities(network, record.config.modalities).eval()
    truth = val.pop("labels").numpy()
    inputs = Inputs(**{**val, **{name: val[name].float() for name in ("image_emb", "title_emb")}})
    model = _onnx(module, encoder.embed_dim)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    expected, found = [], []
    for part in zip(*(each.split(EVAL_BATCH) for each in inputs), strict=True):
        with torch.inference_mode():
            expected.append(module(*part).numpy())
        named = dict(zip(Inputs._fields, part, strict=True))
        found += session.run(None, {name: each.numpy() for name, each in named.items()})
    probabilities = np.concatenate(expected)
    max_difference, num_other = _compare(run, probabilities, np.concatenate(found))
    written = {
        MODEL: model,
        "labels.csv": _labels_csv(labels),
        ENCODER: run.read(ENCODER),
        "README.md": model_card(run, probabilities, truth).encode(),
    }
    for name, content in written.items():
        out.write(name, content)
    return ExportedModel(
        folder=out.location,
        num_items=len(truth),
        max_difference=max_difference,
        num_other_answers=num_other,
        num_bytes=len(model),
    )


def _check_folder(folder: Path) -> None:
    """Refuse a place that is not for this: README.md and labels.csv are names that others use."""
    if folder.is_dir():
        names = {path.name for path in folder.iterdir()}
        is_ours = not names or MODEL in names
        what = f"the folder has other files: {', '.join(sorted(names)[:3])}"
    else:
        is_ours, what = not folder.exists(), "this is a file"
    if not is_ours:
        raise ExportError(what, where=str(folder), fix="name another folder with --out")


def _onnx(module: nn.Module, embed_dim: int) -> bytes:
    """Return the network as ONNX, for any number of items."""
    example: Any = Inputs(
        image_emb=torch.zeros(2, embed_dim),
        title_emb=torch.zeros(2, embed_dim),
        image_ok=torch.ones(2, dtype=torch.bool),
        title_ok=torch.ones(2, dtype=torch.bool),
    )
    batch = torch.export.Dim("batch")
    logging.getLogger("onnxscript").setLevel(logging.WARNING)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # of names of axes that it finds equal
        program = torch.onnx.export(
            module,
            tuple(example),
            dynamo=True,
            verbose=False,
            input_names=list(Inputs._fields),
            output_names=["probabilities"],
            dynamic_shapes=({0: batch},) * len(example),
        )
    assert program is not None
    return program.model_proto.SerializeToString()


def _compare(
    run: RunFolder, expected: Float32[np.ndarray, "V C"], found: Float32[np.ndarray, "V C"]
) -> tuple[float, int]:
    """Return the largest difference, and how many best labels differ because of a tie.

    Raises: ExportError where it is more than rounding.
    """
    difference = float(np.abs(expected - found).max()) if len(expected) else 0.0
    answer, other = expected.argmax(axis=1), found.argmax(axis=1)
    rows = np.arange(len(expected))
    is_other = answer != other
    is_wrong = is_other & (expected[rows, answer] - expected[rows, other] > _TIE)
    if not difference <= TOLERANCE or is_wrong.any():
        raise ExportError(
            f"ONNX differs from torch by up to {difference:.1e} (allowed {TOLERANCE:g}) and in the "
            f"best label of {int(is_wrong.sum())} of {len(expected)} val items",
            where=run.where(),
            fix="install the versions of constraints.txt for torch, onnx, onnxscript and "
            "onnxruntime; nothing was written",
        )
    return difference, int(is_other.sum())


def _labels_csv(labels: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pa.csv.write_csv(labels.select(["label", "label_id", "name", "path"]), buffer)
    return buffer.getvalue()
