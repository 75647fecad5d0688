"""The folder of a finished run, wherever it is: a whole classifier but for the encoder.

Reads it, checks that nothing is missing or changed, and loads the network. Nothing of the workspace
is needed: the folder may be copied to a machine that has only it.

C classes, D embedding width, Q bits of a code.
"""

import hashlib
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa
from jaxtyping import Bool
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from cache.layout import parquet_table
from cache.storage import Storage
from pipeline.fusion import FusionNetwork
from pipeline.status import RUN_COMMIT
from schemas.configs import from_json
from schemas.errors import FitError
from schemas.plan import EncoderSpec
from schemas.run import FitConfig, RunCommit, RunRecord

Read = TypeVar("Read")

LABELS, ENCODER, VAL = "labels.parquet", "encoder.json", "val.safetensors"
# What a finished run has; TensorBoard's events may be deleted.
RUN_FILES = (
    "config.json",
    "history.jsonl",
    "model.safetensors",
    LABELS,
    ENCODER,
    VAL,
    "predictions.parquet",
    "metrics.json",
)


@dataclass(frozen=True)
class RunFolder:
    """Where a run is."""

    storage: Storage
    place: str
    """Folder in the storage."""

    @property
    def name(self) -> str:
        """Of the run."""
        return self.place.rpartition("/")[2]

    def where(self, file: str = "") -> str:
        """Return the whole path, for people."""
        return self.storage.where(f"{self.place}/{file}".rstrip("/"))

    def read(self, file: str) -> bytes:
        """Return a file. Raises: FileNotFoundError."""
        return self.storage.read(f"{self.place}/{file}")

    def read_json(self, kind: type[Read], file: str) -> Read:
        """Read a dataclass. Raises: FileNotFoundError, ConfigError."""
        text = self.read(file).decode()
        fix = "run its `python cli.py fit` again"
        return from_json(kind, text, where=self.where(file), fix=fix)

    def digests(self) -> dict[str, str]:
        """Return the sha256 of every file of the run. Raises: FileNotFoundError."""
        return {file: _sha256(self.read(file)) for file in RUN_FILES}

    def problem(self) -> tuple[str, str] | None:
        """Return a file and what is wrong with it; None if the run is finished and whole."""
        try:
            commit = self.read_json(RunCommit, RUN_COMMIT)
        except FileNotFoundError:
            return RUN_COMMIT, "is missing: the run is not finished"
        except ValueError:
            return RUN_COMMIT, "cannot be read"
        for file in RUN_FILES:
            try:
                found = _sha256(self.read(file))
            except FileNotFoundError:
                return file, "is missing"
            if found != commit.sha256.get(file):
                return file, f"does not match its sha256 in {RUN_COMMIT}"
        return None

    def record(self) -> RunRecord:
        """Return what config.json says.

        Raises: FitError if the run is not finished and whole; ConfigError.
        """
        if problem := self.problem():
            raise FitError(
                " ".join(problem),
                where=self.where(problem[0]),
                fix="run its `python cli.py fit`, or compare, again: it is made anew",
            )
        return self.read_json(RunRecord, "config.json")

    def encoder(self) -> EncoderSpec:
        """Return the encoder whose embeddings the network takes."""
        return self.read_json(EncoderSpec, ENCODER)

    def labels(self) -> pa.Table:
        """Return the labels that it answers with, in the schema LABELS."""
        return parquet_table(self.read(LABELS))

    def val(self) -> dict[str, Tensor]:
        """Return what thresholds are chosen on: val items' embeddings, flags and labels."""
        return load(self.read(VAL))

    def network(self, config: FitConfig, *, embed_dim: int, num_classes: int) -> FusionNetwork:
        """Return the trained network, in evaluation mode, on the CPU.

        Raises: FitError if the weights are of another version of the network.
        """
        try:
            weights = load(self.read("model.safetensors"))
            network = make_network(
                config, embed_dim=embed_dim, num_classes=num_classes, codes=weights.get("codes")
            )
            network.load_state_dict(weights)
        except (SafetensorError, RuntimeError) as error:
            raise FitError(
                f"the weights do not fit the network: {' '.join(str(error).split())[:200]}",
                where=self.where("model.safetensors"),
                fix=f"delete {self.where()} and fit again",
            ) from error
        return network.eval()


def make_network(
    config: FitConfig,
    *,
    embed_dim: int,
    num_classes: int,
    codes: Bool[Tensor, "C Q"] | None = None,
) -> FusionNetwork:
    """Return a run's network with fresh weights; with the labels' codes if its approach has any."""
    return FusionNetwork(
        embed_dim=embed_dim,
        num_classes=num_classes,
        fusion=config.fusion,
        hidden_dim=config.hidden_dim,
        num_hidden=config.num_hidden,
        dropout=config.dropout,
        codes=codes,
        has_classes=codes is None or config.code_head == "beside",
    )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
