"""Embed a folder of NNN.jpg and NNN.txt with the loop that one writes first.

A torch Dataset over the files (Pillow, open_clip's own preprocessing, its tokenizer), a
DataLoader with workers, both towers in float32, unit length, float16, np.save. Takes a folder and
a checkpoint, writes OUT/image_emb.npy and OUT/text_emb.npy with rows in order of file name, and
prints one line of JSON. `seconds` runs from the first request for a batch (the workers start
there) to the end of np.save; interpreter start, model load and one warm-up batch are excluded.

    python benchmarks/peers/dataloader_loop.py --images FOLDER --checkpoint FILE.safetensors \
        --model ViT-B-32 --out FOLDER
"""

import argparse
import importlib.metadata
import json
import os
import time
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

PACKAGES = ("torch", "open_clip_torch", "torchvision", "pillow", "numpy")


class PicturesAndTitles(Dataset):
    """Preprocessed pictures and tokenized titles of a folder."""

    def __init__(self, folder: Path, preprocess: object, tokenizer: object) -> None:
        """List the pictures by name."""
        self.paths = sorted(folder.glob("*.jpg"))
        self.preprocess, self.tokenizer = preprocess, tokenizer

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        path = self.paths[index]
        title = path.with_suffix(".txt").read_text(encoding="utf-8")
        with Image.open(path) as image:
            return self.preprocess(image), self.tokenizer(title)[0]


@torch.inference_mode()
def embed(model: torch.nn.Module, loader: DataLoader, out: Path) -> None:
    """Write the embeddings of all batches."""
    image_emb, text_emb = [], []
    for images, tokens in loader:
        image_emb.append(model.encode_image(images, normalize=True).half().numpy())
        text_emb.append(model.encode_text(tokens, normalize=True).half().numpy())
    np.save(out / "image_emb.npy", np.concatenate(image_emb))
    np.save(out / "text_emb.npy", np.concatenate(text_emb))


def main() -> None:
    """Load, warm up, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="folder of .jpg and .txt")
    parser.add_argument("--checkpoint", type=Path, required=True, help="state dict of the model")
    parser.add_argument("--model", required=True, help="open_clip's name of the model")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    args = parser.parse_args()

    model, _, preprocess = open_clip.create_model_and_transforms(
        args.model, pretrained=str(args.checkpoint)
    )
    model.eval()
    dataset = PicturesAndTitles(args.images, preprocess, open_clip.get_tokenizer(args.model))
    loader = DataLoader(dataset, batch_size=args.batch_size, num_workers=args.workers)
    args.out.mkdir(parents=True, exist_ok=True)
    image, tokens = dataset[0]
    with torch.inference_mode():
        model.encode_image(image.expand(args.batch_size, -1, -1, -1))
        model.encode_text(tokens.expand(args.batch_size, -1))

    started = time.perf_counter()
    embed(model, loader, args.out)
    seconds = time.perf_counter() - started
    report = {
        "seconds": round(seconds, 3),
        "items": len(dataset),
        "image_emb": str(args.out / "image_emb.npy"),
        "text_emb": str(args.out / "text_emb.npy"),
        "batch_size": args.batch_size,
        "workers": args.workers,
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
