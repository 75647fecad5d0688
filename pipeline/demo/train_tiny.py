"""Train shelfwise-tiny, the bundled encoder: a two-tower open_clip model on generated pairs.

    python -m pipeline.demo.train_tiny --seed 1 --pairs 150000 --minutes 20 --out DIR

Takes nothing but the generator; draws pairs of picture and captions, other items than the demo's;
trains with the CLIP loss (Radford et al. 2021, section 2.3) between pictures and titles and between
pictures and names of label and shelf, no category twice in a batch. Writes
DIR/shelfwise-tiny.safetensors (float16) and DIR/shelfwise-tiny.json, the figures of the run.
The one module outside `pipeline/encoder.py` that imports open_clip: training is no stage.
Cost: about 2.5 ms a pair to draw and 2 ms a pair and pass to train, on two cores.

Letters: B batch, D embedding width, L tokens of a caption, C categories.
"""

import argparse
import json
import math
import multiprocessing
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional

from pipeline.demo.catalog import leaves
from pipeline.demo.draw_scene import draw_picture
from pipeline.demo.taxonomy import Leaf
from pipeline.demo.titles import make_title

MODEL_NAME = "shelfwise-tiny"
CONFIG_PATH = Path(__file__).with_name(f"{MODEL_NAME}.json")
NUM_TITLES = 3
BATCH_ROWS = 128
PEAK_LR, WEIGHT_DECAY, WARMUP_STEPS = 2.5e-3, 0.05, 100
EVAL_SEED_STEP, EVAL_PAIRS = 1000, 4000
_CHUNK_PAIRS = 250


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Generated pictures with several captions each."""

    images: np.ndarray[Any, np.dtype[np.uint8]]
    """uint8 [pairs, side, side, 3]"""
    tokens: np.ndarray[Any, np.dtype[np.uint16]]
    """uint16 [pairs, NUM_TITLES + 2, L]: titles, then the label's name, then its shelf's"""
    labels: np.ndarray[Any, np.dtype[np.int64]]
    """int64 [pairs]"""


def image_side() -> int:
    """Give the side of the encoder's square input in pixels."""
    config = json.loads(CONFIG_PATH.read_text(encoding="utf-8"))
    return int(config["vision_cfg"]["image_size"])


def fit_square(image: Image.Image, side: int) -> Image.Image:
    """Resize the shorter side to `side`, bicubic, and crop the middle, as open_clip does."""
    scale = side / min(image.size)
    width, height = (max(side, round(edge * scale)) for edge in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - side) / 2), round((height - side) / 2)
    return image.crop((left, top, left + side, top + side))


def alt_text(leaf: Leaf, rng: random.Random) -> str:
    """Write the label's name as a caption: the name alone, or after its parent."""
    if rng.random() < 0.65:
        return leaf.name
    return f"{leaf.path[-2]} {leaf.name}"


def shelf_text(leaf: Leaf, rng: random.Random) -> str:
    """Write the shelf's name as a caption, without the leaf: its department, group or both."""
    levels = leaf.path[:-1]
    return rng.choice((levels[0], levels[-1], " ".join(levels)))


def make_pairs(seed: int, num_pairs: int, *, workers: int = 2) -> Pairs:
    """Draw pairs, every category equally often, in worker processes."""
    side = image_side()
    images = np.empty((num_pairs, side, side, 3), dtype=np.uint8)
    tokens: list[np.ndarray[Any, np.dtype[np.uint16]]] = []
    starts = range(0, num_pairs, _CHUNK_PAIRS)
    jobs = [(start, min(_CHUNK_PAIRS, num_pairs - start)) for start in starts]
    began = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        work = partial(_draw_chunk, seed, side)
        for (start, rows), (chunk, words) in zip(jobs, pool.imap(work, jobs), strict=True):
            images[start : start + rows] = chunk
            tokens.append(words)
            _report("draw", start + rows, num_pairs, began, every=20_000)
    labels = np.arange(num_pairs, dtype=np.int64) % len(leaves())
    return Pairs(images=images, tokens=np.concatenate(tokens), labels=labels)


def _draw_chunk(
    seed: int, side: int, job: tuple[int, int]
) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], np.ndarray[Any, np.dtype[np.uint16]]]:
    start, rows = job
    everything = leaves()
    images = np.empty((rows, side, side, 3), dtype=np.uint8)
    captions: list[str] = []
    for row in range(rows):
        rng = random.Random(f"{MODEL_NAME} {seed} {start + row}")
        leaf = everything[(start + row) % len(everything)]
        image, color = draw_picture(leaf, rng, everything)
        images[row] = np.asarray(fit_square(image, side))
        captions.extend(
            make_title(leaf, rng, color=color, others=everything) for _ in range(NUM_TITLES)
        )
        captions.extend((alt_text(leaf, rng), shelf_text(leaf, rng)))
    words = _tokenizer()(captions).numpy().astype(np.uint16)
    return images, words.reshape(rows, NUM_TITLES + 2, -1)


def _tokenizer() -> Any:
    open_clip.add_model_config(CONFIG_PATH)
    return open_clip.get_tokenizer(MODEL_NAME)


def _report(what: str, done: int, total: int, began: float, *, every: int) -> None:
    if done % every and done < total:
        return
    seconds = time.monotonic() - began
    rate = done / max(seconds, 1e-9)
    eta = (total - done) / rate
    print(
        f"{what} {done:,}/{total:,}  {rate:,.0f}/s  eta {eta:,.0f} s", file=sys.stderr, flush=True
    )


def to_input(images: np.ndarray[Any, np.dtype[np.uint8]]) -> torch.Tensor:
    """Normalize uint8 [B, side, side, 3] to float32 [B, 3, side, side] with OpenAI's statistics."""
    mean = torch.tensor(open_clip.constants.OPENAI_DATASET_MEAN).view(1, 3, 1, 1)
    std = torch.tensor(open_clip.constants.OPENAI_DATASET_STD).view(1, 3, 1, 1)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (pixels - mean) / std


def _augment(
    images: np.ndarray[Any, np.dtype[np.uint8]], rng: np.random.Generator
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Flip half of the batch and shift it all by up to 5 pixels, edges repeated."""
    images = images.copy()
    flip = rng.random(len(images)) < 0.5
    images[flip] = images[flip, :, ::-1]
    side = images.shape[1]
    padded = np.pad(images, ((0, 0), (5, 5), (5, 5), (0, 0)), mode="edge")
    top, left = rng.integers(0, 11, size=2)
    return np.ascontiguousarray(padded[:, top : top + side, left : left + side])


def clip_loss(image_emb: torch.Tensor, text_emb: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Give the symmetric cross-entropy of matching B pictures and B captions.

    logits[i, j] = scale * <image i, text j>; loss = (CE over rows + CE over columns) / 2
    """
    logits_BB = scale * image_emb.float() @ text_emb.float().T
    targets = torch.arange(len(logits_BB))
    by_image = functional.cross_entropy(logits_BB, targets)
    return (by_image + functional.cross_entropy(logits_BB.T, targets)) / 2


def start_blocks(model: Any) -> None:
    """Start the last scale of every residual block at 1.

    open_clip starts it at 0, for depth; with one block a stage, 1 learns faster.
    """
    for name, scale in model.visual.named_parameters():
        if name.endswith("bn3.weight"):
            torch.nn.init.ones_(scale)


def train(
    model: Any, pairs: Pairs, *, seed: int, minutes: float, peak_lr: float
) -> dict[str, float]:
    """Train in place until `minutes` have passed; the cosine schedule follows the clock.

    Returns: steps, pairs seen, pairs per second, seconds.
    """
    rng = np.random.default_rng(seed)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": WEIGHT_DECAY},
        {"params": plain, "weight_decay": 0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=peak_lr, betas=(0.9, 0.98), fused=True)
    model.train()
    model.visual.to(memory_format=torch.channels_last)
    began, step, smooth = time.monotonic(), 0, math.nan
    while (share := (time.monotonic() - began) / (minutes * 60)) < 1:
        rate = peak_lr * min(1.0, (step + 1) / WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * share))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = _step(model, pairs, pick_rows(pairs, rng), rng)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        step += 1
        value = float(loss.detach())
        smooth = value if math.isnan(smooth) else 0.95 * smooth + 0.05 * value
        if step % 200 == 0:
            _report_step(step, smooth, began, minutes)
    seconds = time.monotonic() - began
    seen = step * BATCH_ROWS
    return {
        "steps": step,
        "pairs_seen": seen,
        "pairs_per_second": seen / seconds,
        "train_seconds": seconds,
    }


def pick_rows(pairs: Pairs, rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Pick a batch in which no category comes twice, so that every other caption is truly wrong."""
    num_classes = len(leaves())
    labels = rng.permutation(num_classes)[:BATCH_ROWS]
    # make_pairs deals the labels round robin: rows label, label + C, label + 2C, ...
    rounds = rng.integers(0, len(pairs.labels) // num_classes, size=len(labels))
    return labels + num_classes * rounds


def _step(
    model: Any,
    pairs: Pairs,
    rows: np.ndarray[Any, np.dtype[np.int64]],
    rng: np.random.Generator,
) -> torch.Tensor:
    images = to_input(_augment(pairs.images[rows], rng))
    # bfloat16 doubles the convolutions' speed here and slows the narrow text tower down.
    with torch.autocast("cpu", torch.bfloat16):
        image_emb = model.encode_image(
            images.contiguous(memory_format=torch.channels_last), normalize=True
        )
    scale = model.logit_scale.exp()
    columns = (rng.integers(0, NUM_TITLES, size=len(rows)), NUM_TITLES, NUM_TITLES + 1)
    title_emb, name_emb, shelf_emb = (
        encode_captions(model, pairs.tokens[rows, column]) for column in columns
    )
    losses = [clip_loss(image_emb, emb, scale) for emb in (title_emb, name_emb, shelf_emb)]
    return torch.stack(losses).mean()


def encode_captions(model: Any, tokens: np.ndarray[Any, np.dtype[np.uint16]]) -> torch.Tensor:
    """Encode captions, normalized; tokens after the batch's longest caption are cut off.

    The tower is causal and pooled at the end token, so what follows it changes nothing.
    """
    words_BL = torch.from_numpy(tokens.astype(np.int64))
    length = int(words_BL.argmax(dim=1).max()) + 1
    words_BL = words_BL[:, :length]
    hidden = model.token_embedding(words_BL) + model.positional_embedding[:length]
    hidden = model.ln_final(model.transformer(hidden, attn_mask=model.attn_mask[:length, :length]))
    ends = hidden[torch.arange(len(words_BL)), words_BL.argmax(dim=1)]
    return functional.normalize(ends @ model.text_projection, dim=-1)


def _report_step(step: int, loss: float, began: float, minutes: float) -> None:
    seconds = time.monotonic() - began
    rate = step * BATCH_ROWS / seconds
    print(
        f"step {step:,}  loss {loss:.3f}  {rate:,.0f} pairs/s  eta {minutes * 60 - seconds:,.0f} s",
        file=sys.stderr,
        flush=True,
    )


@torch.inference_mode()
def zero_shot(model: Any, pairs: Pairs) -> dict[str, float]:
    """Score pictures, and titles, against the embeddings of the label names."""
    model.eval()
    names = _tokenizer()([leaf.name for leaf in leaves()])
    names_CD = model.encode_text(names, normalize=True)
    image_ND = _in_batches(
        lambda i, j: model.encode_image(to_input(pairs.images[i:j]), normalize=True),
        len(pairs.labels),
    )
    first = torch.from_numpy(pairs.tokens[:, 0].astype(np.int64))
    title_ND = _in_batches(
        lambda i, j: model.encode_text(first[i:j], normalize=True), len(pairs.labels)
    )
    labels = torch.from_numpy(pairs.labels)
    figures = {}
    for what, emb in (("image", image_ND), ("title", title_ND)):
        best = (emb @ names_CD.T).topk(5, dim=1).indices
        hits = best == labels[:, None]
        figures[f"zero_shot/{what}_top1"] = hits[:, 0].float().mean().item()
        figures[f"zero_shot/{what}_top5"] = hits.any(dim=1).float().mean().item()
    return figures


def _in_batches(encode: Any, num_rows: int) -> torch.Tensor:
    return torch.cat([encode(i, min(i + 500, num_rows)) for i in range(0, num_rows, 500)])


@torch.inference_mode()
def encode_rates(model: Any, pairs: Pairs) -> dict[str, float]:
    """Measure images and titles per second from ready tensors, float32, best of five."""
    model.eval()
    images = to_input(pairs.images[:256]).contiguous(memory_format=torch.channels_last)
    tokens = torch.from_numpy(pairs.tokens[:256, 0].astype(np.int64))
    rates = {}
    for what, call in (
        ("images_per_second", partial(model.encode_image, images, normalize=True)),
        ("titles_per_second", partial(model.encode_text, tokens, normalize=True)),
    ):
        call()
        times = []
        for _ in range(5):
            began = time.perf_counter()
            call()
            times.append(time.perf_counter() - began)
        rates[f"encode/{what}"] = 256 / min(times)
    return rates


def save_half(model: Any, path: Path) -> None:
    """Save the weights as float16 safetensors; counters stay integers."""
    state = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in model.state_dict().items()
    }
    save_file(state, path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the pairs, train, evaluate on fresh items and write weights and figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seed", type=int, default=1, help="seed of pairs and weights")
    parser.add_argument("--pairs", type=int, default=150_000, help="pictures to draw")
    parser.add_argument("--minutes", type=float, default=20.0, help="training time")
    parser.add_argument("--start", type=Path, help="weights to go on from, at a third of the rate")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    began = time.monotonic()
    pairs = make_pairs(args.seed, args.pairs)
    draw_seconds = time.monotonic() - began
    open_clip.add_model_config(CONFIG_PATH)
    model = open_clip.create_model(MODEL_NAME, pretrained=str(args.start) if args.start else None)
    peak_lr = PEAK_LR / 3 if args.start else PEAK_LR
    if not args.start:
        start_blocks(model)
    figures: dict[str, float] = {
        "seed": args.seed,
        "pairs": args.pairs,
        "draw_seconds": draw_seconds,
    }
    figures |= train(model, pairs, seed=args.seed, minutes=args.minutes, peak_lr=peak_lr)
    weights = args.out / f"{MODEL_NAME}.safetensors"
    save_half(model, weights)
    model = open_clip.create_model(MODEL_NAME, pretrained=str(weights))
    fresh = make_pairs(args.seed + EVAL_SEED_STEP, EVAL_PAIRS)
    figures |= zero_shot(model, fresh) | encode_rates(model, fresh)
    figures |= {"num_categories": len(leaves()), "weights_bytes": weights.stat().st_size}
    text = json.dumps(figures, indent=2)
    (args.out / f"{MODEL_NAME}.json").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
