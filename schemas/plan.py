"""The plan: what stage one embeds, with which encoder, cut into which shards.

`python cli.py plan` writes it and grows it when the catalog changes; every later stage reads it.
Its size is about 130 bytes a shard: 24 kB at 12M items in 184 shards.

Shard s has the rows from s * shard_rows on. One that was not filled when it was planned never will
be, as committed shards are left alone: the rows up to the next shard belong to no item.
"""

from dataclasses import dataclass, field
from typing import Any

from schemas.configs import digest
from schemas.errors import ConfigError, ShardError


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """One file of the items catalog."""

    path: str
    """Absolute path, or a URL as the user gave it."""
    num_bytes: int
    """Size in bytes."""
    num_rows: int
    """Items in it."""
    sha256: str
    """Of the whole file (CSV), of its footer, which holds every column's place (Parquet), or of its
    members' names, sizes and offsets (tar), which do not tell a picture overwritten in place by
    another of the same size."""
    root: str
    """Absolute folder or URL that relative image paths start from and may not leave."""
    has_image_bytes: bool
    """True: the column `image` or a tar holds encoded pictures. False: `image_path` names files."""


@dataclass(frozen=True, kw_only=True)
class ItemsSource:
    """Where the items come from."""

    files: tuple[SourceFile, ...]
    """In plan order: row order is file order, then order within the file."""


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How a picture becomes the encoder's input (open_clip's PreprocessCfg)."""

    size: tuple[int, int]
    """Height and width in pixels."""
    mean: tuple[float, float, float]
    """Per channel, in units of [0, 1]."""
    std: tuple[float, float, float]
    """Per channel, in units of [0, 1]."""
    interpolation: str
    """`bicubic` or `bilinear`."""
    resize_mode: str
    """`shortest`, `longest` or `squash`."""
    fill_color: int
    """Of the border that `longest` pads with, 0..255."""


@dataclass(frozen=True, kw_only=True)
class EncoderSpec:
    """A frozen encoder, resolved so that a node without network can load it."""

    model: str
    """open_clip model name, `hf-hub:org/name` or `local-dir:folder`."""
    pretrained: str
    """As the user gave it: tag, path, `random`, or empty where the model name says it all."""
    weights_path: str
    """Absolute path of the resolved checkpoint; empty for `random`."""
    weights_sha256: str
    """Of the checkpoint file; for `random`, of the name and seed that make it."""
    architecture: dict[str, Any]
    """open_clip model config, with quick_gelu as the weights need it."""
    preprocess: Preprocess
    """Image preprocessing of these weights."""
    tokenizer: str
    """Class of the tokenizer and its context length."""
    embed_dim: int
    """D, the width of an embedding."""
    decode: str = "scaled"
    """How pictures are decoded before the resize: at `full` size, or `scaled` by libjpeg to a half
    or a quarter where that leaves twice or four times the encoder's input."""
    storage_dtype: str = "float16"
    """Of the item embeddings in the cache."""
    is_normalized: bool = True
    """Embeddings have unit length."""

    def spec(self) -> dict[str, Any]:
        """Return what an embedding's value depends on, and nothing else."""
        return {
            "model": self.model,
            "weights_sha256": self.weights_sha256,
            "architecture_sha256": digest(self.architecture),
            "preprocess": {
                "size": list(self.preprocess.size),
                "mean": list(self.preprocess.mean),
                "std": list(self.preprocess.std),
                "interpolation": self.preprocess.interpolation,
                "resize_mode": self.preprocess.resize_mode,
                "fill_color": self.preprocess.fill_color,
            },
            "tokenizer": self.tokenizer,
            "decode": self.decode,
            "storage_dtype": self.storage_dtype,
            "is_normalized": self.is_normalized,
        }

    def spec_id(self) -> str:
        """Return the hash of `spec()`, 16 hex digits."""
        return digest(self.spec())[:16]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that stage one fixes before the first picture is read."""

    version: int = 1
    """Of this format."""
    items: ItemsSource
    """The catalog."""
    labels_path: str
    """Absolute path of the labels file."""
    labels_sha256: str
    """Of the label ids, names and paths in order."""
    label_text: str
    """What is embedded for a label: `name`, `path`, or a template with {name} or {path}; or several
    of these with " | " between, whose embeddings are averaged."""
    num_labels: int
    """C."""
    limit: int | None
    """Only the first so many items were planned; None for all."""
    encoder: EncoderSpec
    """The frozen encoder."""
    spec_id: str
    """encoder.spec_id(), repeated for readers of the file."""
    shard_rows: int = 65536
    """Most items of a shard, and the distance from one's first row to the next one's."""
    chunk_rows: int = 16384
    """Rows per chunk file; divides shard_rows."""
    seed: int = 0
    """Salt of the split hash."""
    shard_items: tuple[int, ...] = field(repr=False)
    """Per shard, how many items it has, retired ones too."""
    shards: tuple[str, ...] = field(repr=False)
    """Per shard, the sha256 of its items' ids, titles and picture sources: what an embedding is
    made from. Labels and splits are not in it."""
    items_tables: tuple[str, ...] = field(repr=False)
    """Per shard, the sha256 of its items table, with labels and splits."""
    labels_table: str
    """Sha256 of labels.parquet."""
    retired_table: str = ""
    """Sha256 of retired.parquet, which lists the rows of items that are no longer in the catalog;
    empty if there are none."""

    def __post_init__(self) -> None:
        """Check that the numbers fit together."""
        if self.chunk_rows < 1 or self.shard_rows < 1 or self.shard_rows % self.chunk_rows:
            raise ConfigError(
                f"shard_rows={self.shard_rows} is not a multiple of chunk_rows={self.chunk_rows}",
                where="plan",
                fix="choose --shard-rows as a multiple of --chunk-rows: a shard owns whole chunks",
            )
        each_full = all(0 < num <= self.shard_rows for num in self.shard_items)
        if not (len(self.shards) == len(self.items_tables) == len(self.shard_items) and each_full):
            raise ConfigError(
                f"{len(self.shards)} shards of up to {self.shard_rows} items cannot hold "
                f"{self.num_items} in {len(self.shard_items)}",
                where="plan",
                fix="run `python cli.py plan ... --force` again",
            )

    @property
    def num_shards(self) -> int:
        """Number of shards."""
        return len(self.shards)

    @property
    def num_items(self) -> int:
        """Items that were ever planned, retired ones too."""
        return sum(self.shard_items)

    @property
    def num_rows(self) -> int:
        """N, the length of the arrays: rows between shards count."""
        return self.shard_range(self.num_shards - 1)[1] if self.num_shards else 0

    def items_sha256(self) -> str:
        """Return a hash of all ids, labels and splits, and of what is retired."""
        return digest([*self.items_tables, self.retired_table])

    def shard_range(self, shard: int) -> tuple[int, int]:
        """Return the first row of a shard and the row after its last.

        Raises: ShardError if the plan has no such shard.
        """
        if not 0 <= shard < self.num_shards:
            raise ShardError(
                f"no shard {shard}: the plan has shards 0 to {self.num_shards - 1}",
                where="plan.json",
                fix="run `python cli.py status` to see them",
            )
        start = shard * self.shard_rows
        return start, start + self.shard_items[shard]

    def chunk_span(self, chunk: int) -> tuple[int, int]:
        """Return the first row of a chunk and the row after its last."""
        start = chunk * self.chunk_rows
        return start, min(start + self.chunk_rows, self.shard_range(start // self.shard_rows)[1])


def even_shards(num_items: int, shard_rows: int) -> tuple[int, ...]:
    """Return how many items each shard has when all but the last are full."""
    starts = range(0, num_items, shard_rows)
    return tuple(min(shard_rows, num_items - start) for start in starts)
