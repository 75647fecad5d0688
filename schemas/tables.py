"""Arrow schemas of every Parquet table in a workspace. DESIGN.md section 3."""

import pyarrow as pa

SPLITS = ("train", "val", "test")

LABELS = pa.schema(
    [
        pa.field("label", pa.int32(), nullable=False),
        pa.field("label_id", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("path", pa.string()),  # levels joined by " > ", ends with the name
        pa.field("count", pa.int64(), nullable=False),  # items over all splits
    ]
)

ITEMS = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("source_file", pa.int32(), nullable=False),  # position in plan.items.files
        pa.field("source_row", pa.int64(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
    ]
)

ROWS = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("image_ok", pa.bool_(), nullable=False),
        pa.field("title_ok", pa.bool_(), nullable=False),
        pa.field("error", pa.string()),  # "image: reason", "title: reason" or both, "; " between
        pa.field("image_sha256", pa.string()),
        pa.field("title_sha256", pa.string()),
        pa.field("image_title_cosine", pa.float32()),
    ]
)

NEIGHBORS = pa.schema(
    [
        pa.field("label", pa.int32(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),  # 1 is the nearest
        pa.field("neighbor", pa.int32(), nullable=False),
        pa.field("similarity", pa.float32(), nullable=False),  # cosine, rounded to 1e-6
    ]
)

PREDICTIONS = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),  # the truth
        pa.field("top_labels", pa.list_(pa.int32()), nullable=False),  # best first, 20 or C
        pa.field("top_probabilities", pa.list_(pa.float32()), nullable=False),
    ]
)
