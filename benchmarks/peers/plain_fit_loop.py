"""Train the fusion head with the loop that one writes first.

A torch Dataset over two float16 matrices that gives an item's embeddings in float32 with its dense
target, a DataLoader that shuffles and stacks them, nn.MultiheadAttention over the two tokens,
nn.Dropout, focal loss and KL by autograd from softmax and the dense target, plain AdamW, all in
float32. The same sizes, loss and optimizer as ours.

B batch, C classes, D embedding width, N items.
"""

import time
from multiprocessing.connection import Connection

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset


class Items(Dataset):
    """Items with dense targets."""

    def __init__(self, image_emb: Tensor, title_emb: Tensor, labels: Tensor, table: Tensor) -> None:
        """Take embeddings [N, D] in float16, labels [N] and the targets of every class [C, C]."""
        self.image_emb, self.title_emb, self.labels = image_emb, title_emb, labels
        self.table = table

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        label = self.labels[index]
        return (
            self.image_emb[index].float(),
            self.title_emb[index].float(),
            label,
            self.table[label],
        )


class Head(nn.Module):
    """Two tokens through one attention block, then an MLP."""

    def __init__(self, embed_dim: int, num_classes: int, hidden_dim: int) -> None:
        """Make the layers of the default head."""
        super().__init__()
        self.modality = nn.Parameter(0.02 * torch.randn(2, embed_dim))
        self.attention = nn.MultiheadAttention(embed_dim, 8, batch_first=True)
        self.norm = nn.LayerNorm(embed_dim)
        self.mlp = nn.Sequential(
            nn.Linear(2 * embed_dim, hidden_dim),
            nn.GELU(),
            nn.Dropout(0.1),
            nn.Linear(hidden_dim, num_classes),
        )

    def forward(self, image_emb: Tensor, title_emb: Tensor) -> Tensor:
        """Return the logits."""
        tokens = torch.stack([image_emb, title_emb], dim=1) * image_emb.shape[1] ** 0.5
        tokens = tokens + self.modality
        attended, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        return self.mlp(self.norm(tokens + attended).flatten(1))


def dense_loss(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Return focal loss (gamma 2) and KL to the targets, means over the batch."""
    log_p = F.log_softmax(logits, dim=1)
    true = log_p.gather(1, labels[:, None])[:, 0]
    focal = -((1 - true.exp()) ** 2) * true
    return focal.mean() + F.kl_div(log_p, targets, reduction="batchmean")


def run_plain(
    calls: Connection, items: Items, hidden_dim: int, batch_size: int, num_steps: int
) -> None:
    """Time some steps for every number of workers that comes in, until nothing more comes."""
    while True:
        try:
            num_workers = calls.recv()
        except EOFError:
            return
        calls.send(seconds_per_item(items, hidden_dim, batch_size, num_steps, num_workers))


def seconds_per_item(
    items: Items, hidden_dim: int, batch_size: int, num_steps: int, num_workers: int
) -> float:
    """Train some steps after a first one; return the time of an item."""
    network = Head(items.image_emb.shape[1], len(items.table), hidden_dim)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.01)
    loader = DataLoader(items, batch_size, shuffle=True, drop_last=True, num_workers=num_workers)
    started = 0.0
    for step, (image_emb, title_emb, labels, targets) in enumerate(loader):
        loss = dense_loss(network(image_emb, title_emb), labels, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step == 0:
            started = time.perf_counter()
        if step == num_steps:
            break
    return (time.perf_counter() - started) / (num_steps * batch_size)
