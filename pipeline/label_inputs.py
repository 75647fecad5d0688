"""What in a workspace the label graph and the label codes depend on, to tell stale ones."""

from cache.reader import labels_state
from cache.storage import Storage
from schemas.plan import Plan


def label_inputs(
    workspace: Storage, plan: Plan, *, has_embeddings: bool = True
) -> dict[str, object]:
    """Return the state of the labels and of their embeddings.

    Args:
        workspace: where the plan and the cache are.
        plan: the workspace's plan.
        has_embeddings: whether the cache's label embeddings matter.
    Raises: CacheIncompleteError if they do and are not there.
    """
    if not has_embeddings:
        return {"labels_sha256": plan.labels_sha256}
    commit = labels_state(workspace, plan)
    return {
        "spec_id": commit.spec_id,
        "labels_sha256": commit.labels_sha256,
        "label_text": commit.label_text,
        "label_emb_crc32c": commit.crc32c,
    }
