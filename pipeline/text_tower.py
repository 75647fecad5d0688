"""Frozen CLIP text towers: token ids in, unit-length embeddings out.

Takes an open_clip model and the token ids of titles. Titles are short (8 to 20 tokens) and the
context is not (77), so most of the tower's work goes into padding. A causal tower pooled at the
end token cannot see what follows that token: each batch is cut after its longest title, which
makes the tower 3x to 5x faster. Other towers read the padding; for them nothing is cut. Which kind
a tower is, a self-check on its own weights decides, never its name. Writes nothing.

B batch, D embedding width, L tokens in a row (the model's context length).
"""

import copy
import logging
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float32, Int, Int64
from torch import Tensor, nn

logger = logging.getLogger(__name__)

# What the cut may change, from random weights: sums run in another order, which moved elements of
# float32 embeddings by 2.5e-6 at most. bfloat16 alone, uncut, is at cosine 0.9999 to float32, and
# cut against uncut is at 0.99991 (ViT-B-32) or 0.99988 (ViT-H-14): the same noise. Towers that do
# read the padding were below 0.3.
_MAX_DIFFERENCE = 1e-5
_GPU_STEP = 8
_MIN_COSINE_LOW_PRECISION = 0.999


class TextTower:
    """Encode token ids; cut each batch after its longest title where that changes nothing."""

    is_trimmed: bool
    """Whether cutting passed the self-check; if not, the full context is encoded."""

    def __init__(self, model: Any, *, pad_id: int = 0) -> None:
        """Wrap an open_clip model in evaluation mode and check how far its text tower reads.

        Args:
            model: any open_clip model, with its final weights, dtype and device.
            pad_id: what the tokenizer fills a row with after the title. A wrong one costs the
                speed, not the result: nothing is cut.
        """
        self._model, self._pad_id = model, pad_id
        # CLIP spreads its text tower over itself; CustomTextCLIP and CoCa keep it as a module.
        self._tower = getattr(model, "text", model)
        self._device = next(model.parameters()).device
        # A GPU's libraries plan anew for every length that they meet.
        self._step = _GPU_STEP if self._device.type == "cuda" else 1
        self.is_trimmed = self._passes_self_check()

    @torch.inference_mode()
    def encode(self, tokens: Int[Tensor, "B L"]) -> Float32[Tensor, "B D"]:
        """Return the unit-length embeddings of tokenized titles.

        Args:
            tokens: ids on any device; on the CPU they are cut before they are copied.
        Returns: on the model's device. The length is taken in float32 for any weights, as a
            bfloat16 vector divided by its length is only within 0.3% of unit length.
        """
        # Ids of another width are open_clip's to refuse.
        if self.is_trimmed and tokens.shape[1] == self._tower.context_length:
            return _unit(self._encode_cut(tokens))
        return _unit(self._encode_full(tokens))

    def lengths(self, tokens: Int[Tensor, "B L"]) -> Int64[Tensor, " B"]:
        """Count each title's tokens, from the start token to the end token.

        That is the last id other than padding, plus one. With CLIP's tokenizer it equals
        `tokens.argmax(1) + 1`, as its end token is the highest id and comes last; counting the
        padding also holds for tokenizers with another end token. A batch costs what its longest
        title costs, so sort by this.
        """
        positions = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
        return ((tokens != self._pad_id) * positions).amax(dim=1).clamp(min=1)

    def _encode_full(self, tokens: Tensor) -> Tensor:
        return self._model.encode_text(tokens.to(self._device), normalize=False)

    def _encode_cut(self, tokens: Tensor) -> Tensor:
        context, positions = self._tower.context_length, self._tower.positional_embedding
        # CoCa reads its result from a token of its own, appended behind the padding: its position
        # is the last one, wherever the cut is. Its padding mask is shifted by one (open_clip's
        # `correct_cls_mask=False`, as the published weights were trained): the token after the
        # title is seen, padding or not, and the appended token sees itself only if no padding
        # precedes it. So one padding token has to stay, unless the longest title has none.
        num_appended = positions.shape[0] - context
        length = int(self.lengths(tokens).max()) + num_appended
        length = min(-(-length // self._step) * self._step, context)

        # open_clip's own code runs on a twin of the model whose tables are cut: CLIP.encode_text
        # and TextTransformer.forward take their width from the tables, not from the ids.
        tower = _twin(self._tower)
        kept = torch.cat([positions[:length], positions[context:]])
        tower.positional_embedding = nn.Parameter(kept, requires_grad=False)
        if tower.attn_mask is not None:
            width = length + num_appended
            tower.attn_mask = tower.attn_mask[:width, :width]
        model = tower
        if self._tower is not self._model:
            model = _twin(self._model)
            model.text = tower
        return model.encode_text(tokens[:, :length].to(self._device), normalize=False)

    @torch.inference_mode()
    def _passes_self_check(self) -> bool:
        """Compare both ways on titles of every kind of length; about 8 rows' worth of work."""
        try:
            tokens = self._made_up_titles()
            full = self._encode_full(tokens)
            # An empty title beside a longer one, then one row each: half, almost and entirely full.
            # All but the last differ if attention looks ahead or pooling looks at the padding.
            batches = tokens.split([2, 1, 1, 1])
            cut = torch.cat([self._encode_cut(batch) for batch in batches])
            if full.dtype in (torch.bfloat16, torch.float16):
                cosine = (_unit(cut) * _unit(full)).sum(dim=1)
                passed = bool((cosine >= _MIN_COSINE_LOW_PRECISION).all())
                found = f"cosine {cosine.min():.6f}"
            else:
                difference = (_unit(cut) - _unit(full)).abs()
                passed = bool((difference <= _MAX_DIFFERENCE).all())
                found = f"difference {difference.max():.1e}"
        except Exception as error:  # no tower that open_clip builds by itself: anything may happen
            passed, found = False, f"{type(error).__name__}: {error}"
        if not passed:
            logger.info("titles are encoded at full length: cutting them changes them (%s)", found)
        return passed

    def _made_up_titles(self) -> Int64[Tensor, "5 L"]:
        """Return random titles of 2 (start and end token only) to L tokens, shortest first."""
        context = self._tower.context_length
        num_ids = self._tower.token_embedding.num_embeddings
        prefix = "text_" if self._tower is self._model else ""
        is_by_id = getattr(self._tower, f"{prefix}pool_type") == "eos"
        end_id = getattr(self._tower, f"{prefix}eos_id") if is_by_id else num_ids - 1
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(num_ids - 1, (5, context), generator=generator)
        for row, length in enumerate([2, 8, context // 2, context - 1, context]):
            if length > 3:
                tokens[row, 1] = self._pad_id  # CLIP's padding, 0, also means "!" in a title
            tokens[row, length - 1 :] = self._pad_id
            tokens[row, min(length, context) - 1] = end_id
        return tokens


def _twin(module: nn.Module) -> Any:
    """Return a module of the same weights, not copied, that can be given others.

    `torch.func.functional_call` would change the shared module while it runs, under the feet
    of other threads.
    """
    twin = copy.copy(module)
    for table in ("_parameters", "_buffers", "_modules"):
        setattr(twin, table, dict(getattr(module, table)))
    return twin


def _unit(text_emb: Tensor) -> Tensor:
    return F.normalize(text_emb.float(), dim=-1)
