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
        pa.field("label", pa.int32(), nullable=False),  # -1: its label was removed
        pa.field("split", pa.string(), nullable=False),
    ]
)

RETIRED = pa.schema([pa.field("row", pa.int64(), nullable=False)])  # rising

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

LABEL_TEXTS = pa.schema([pa.field("texts", pa.list_(pa.string()), nullable=False)])  # row: label

NEIGHBORS = pa.schema(
    [
        pa.field("label", pa.int32(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),  # 1 is the nearest
        pa.field("neighbor", pa.int32(), nullable=False),
        pa.field("similarity", pa.float32(), nullable=False),  # cosine, rounded to 1e-6
    ]
)

CODES = pa.schema(
    [
        pa.field("label", pa.int32(), nullable=False),
        pa.field("label_id", pa.string(), nullable=False),
        pa.field("code", pa.list_(pa.bool_()), nullable=False),  # as many bits for every label
    ]
)

CLEAN = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("item_id", pa.string()),  # null between shards, where there is no item
        pa.field("keep", pa.bool_(), nullable=False),
        pa.field("reason", pa.string()),  # of schemas.clean.REASONS; null: nothing found
        pa.field("group", pa.int64()),  # duplicates of each other; null: none
        pa.field("score", pa.float32()),  # the cosine, or label quality, that the reason is about
    ]
)

PICTURE_MARGINS = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("margin", pa.float32(), nullable=False),  # low: like another category's
        pa.field("nearest", pa.int64()),  # row with the most similar picture of another category
    ]
)

LABEL_QUALITY = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("quality", pa.float32(), nullable=False),  # probability of the label, 0 to 1
        pa.field("suggested", pa.int32(), nullable=False),  # the most probable label
        pa.field("is_suspicious", pa.bool_(), nullable=False),
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

PREDICTED = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),  # of the items given, over all files
        pa.field("item_id", pa.string()),
        # The answer; null without anything to predict from, or below --min-precision's threshold.
        pa.field("label_id", pa.string()),
        pa.field("name", pa.string()),
        pa.field("path", pa.string()),
        pa.field("probability", pa.float32()),  # of the best label, answered or not
        pa.field("abstains", pa.bool_(), nullable=False),
        pa.field("error", pa.string()),  # what is missing, as in ROWS
        pa.field("top_label_ids", pa.list_(pa.string()), nullable=False),  # best first
        pa.field("top_probabilities", pa.list_(pa.float32()), nullable=False),
    ]
)

ACCEPTED_AT = (95, 97, 99)  # percent: precisions at which answers may be accepted unseen

CATEGORIES = pa.schema(
    [
        pa.field("label", pa.int32(), nullable=False),
        pa.field("label_id", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("path", pa.string()),
        pa.field("num_train", pa.int64(), nullable=False),
        pa.field("num_items", pa.int64(), nullable=False),  # of this label
        pa.field("num_answers", pa.int64(), nullable=False),  # items answered with this label
        pa.field("num_right", pa.int64(), nullable=False),
        pa.field("recall", pa.float64()),  # top1 of its items; null without items
        pa.field("precision", pa.float64()),  # null without answers
        pa.field("f1", pa.float64()),
        pa.field("top5", pa.float64()),
        pa.field("neighbors_at_5", pa.float64()),
        pa.field("severity", pa.float64()),  # null without mistakes or paths
        pa.field("most_confused_with", pa.int32()),  # label; null without mistakes
        # Per target precision, of the answers: those accepted, and right ones among them.
        *(
            pa.field(f"{what}_{target}", kind, nullable=False)
            for target in ACCEPTED_AT
            for what, kind in (
                ("threshold", pa.float64()),
                ("accepted", pa.int64()),
                ("accepted_right", pa.int64()),
            )
        ),
    ]
)

CONFUSIONS = pa.schema(
    [
        pa.field("label", pa.int32(), nullable=False),  # the truth
        pa.field("answer", pa.int32(), nullable=False),
        pa.field("num_items", pa.int64(), nullable=False),
        pa.field("share", pa.float64(), nullable=False),  # of the label's items
        pa.field("is_neighbor", pa.bool_(), nullable=False),  # the answer is near the truth
        pa.field("distance", pa.int64()),  # in the category tree; null without paths
        pa.field("label_name", pa.string(), nullable=False),
        pa.field("answer_name", pa.string(), nullable=False),
    ]
)
