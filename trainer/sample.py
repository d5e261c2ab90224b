"""Sampling: bytes in, bytes out. `bos <raw>` and the prompt are read at once, then byte after byte through a KV cache.

Only bytes and `</raw>` can be drawn. A model's rows are `context` long; where a text outgrows them, its last half is
read again behind a new `bos <raw>`, as training does with a row that begins inside a document.

Legend: T positions, H query heads, G key-value heads, D width of a head, K rows of the raw table.
"""

import codecs
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from shards.errors import ByteproxyError
from trainer.model import Model
from trainer.specials import BOS, RAW_ROWS, SPECIALS, closer, opener

END = closer(0)


class KVCache:
    """Keys and values of the positions read so far, for every layer; its `attend` is what the model is called with."""

    def __init__(self, model: Model, length: int, rows: int = 1) -> None:
        config, weight = model.config, model.norm.weight
        shape = (2, config.layers, rows, config.kv_heads, length, config.head_dim)
        self.memory = torch.zeros(shape, dtype=model.dtype, device=weight.device)
        self.length, self.used = length, 0

    def attend(self, layer: int, q_1THD: Tensor, k_1TGD: Tensor, v_1TGD: Tensor) -> Tensor:
        """Remember the new positions' keys and values; attend to all up to each query's own."""
        begin, end = self.used, self.used + q_1THD.shape[1]
        k_1GTD, v_1GTD = self.memory[:, layer, :, :, :end]
        k_1GTD[:, :, begin:], v_1GTD[:, :, begin:] = k_1TGD.transpose(1, 2), v_1TGD.transpose(1, 2)
        ahead_TT = torch.ones(end - begin, end, dtype=torch.bool, device=q_1THD.device).tril(begin)
        out = nn.functional.scaled_dot_product_attention(
            q_1THD.transpose(1, 2), k_1GTD, v_1GTD, attn_mask=ahead_TT, enable_gqa=q_1THD.shape[2] != k_1TGD.shape[2]
        )
        return out.transpose(1, 2)


@dataclass(frozen=True)
class Drawing:
    """How a byte is drawn. Temperature 0 takes the likeliest; top_k 0 and top_p 1 leave all."""

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ByteproxyError(
                f"temperature {self.temperature}, top-k {self.top_k}, top-p {self.top_p} found; "
                "expected temperature and top-k of 0 or more, and top-p in (0, 1]"
            )


class Sampler:
    """Reads and continues one text: `prefill` it, then `step` with each further id."""

    def __init__(self, model: Model) -> None:
        self.model, self.device = model, model.norm.weight.device
        self.cache = KVCache(model, model.config.context)

    @torch.inference_mode()
    def prefill(self, text: bytes) -> Tensor:
        """Forget what was read, read `bos <raw> text`; logits of the next id, (K,) float32. The text must fit."""
        self.cache.used = 0
        return self._read([BOS, opener(0), *(SPECIALS + byte for byte in text)])

    @torch.inference_mode()
    def step(self, token: int) -> Tensor:
        """Read one more id; logits of the next, (K,) float32."""
        return self._read([token])

    @property
    def room(self) -> int:
        """Ids that can still be read."""
        return self.cache.length - self.cache.used

    def _read(self, ids: list[int]) -> Tensor:
        ids_1T = torch.tensor([ids], device=self.device)
        positions_1T = torch.arange(self.cache.used, self.cache.used + len(ids), device=self.device)[None]
        x_1TW = self.model(ids_1T, torch.zeros_like(ids_1T), positions_1T, self.cache.attend)
        self.cache.used += len(ids)
        return self.model.logits(x_1TW[:, -1].float(), 0)[0]


def generate(model: Model, prompt: bytes, length: int, drawing: Drawing) -> Iterator[int]:
    """Up to `length` bytes that continue the prompt, one by one; ends early where the model closes the document."""
    sampler, text = Sampler(model), bytearray(prompt)
    generator = torch.Generator().manual_seed(drawing.seed)
    half = model.config.context // 2
    logits_K = sampler.prefill(bytes(text[-half:]))
    for _ in range(length):
        token = draw(logits_K, drawing, generator)
        if token == END:
            return
        text.append(token - SPECIALS)
        yield token - SPECIALS
        logits_K = sampler.step(token) if sampler.room else sampler.prefill(bytes(text[-half:]))


def draw(logits_K: Tensor, drawing: Drawing, generator: torch.Generator) -> int:
    """Draw an id: a byte or `</raw>`, never another special."""
    logits_K = logits_K[:RAW_ROWS].cpu().clone()
    end = float(logits_K[END])
    logits_K[:SPECIALS] = float("-inf")
    logits_K[END] = end
    if drawing.temperature == 0:
        return int(logits_K.argmax())
    sorted_K, index_K = (logits_K / drawing.temperature).sort(descending=True, stable=True)
    chances_K = sorted_K.softmax(0)
    if drawing.top_k:
        chances_K[drawing.top_k :] = 0
    chances_K[chances_K.cumsum(0) - chances_K >= drawing.top_p] = 0  # the one that crosses top_p stays
    return int(index_K[torch.multinomial(chances_K, 1, generator=generator)])


class Display:
    """Bytes to text fit for a terminal: UTF-8 across calls, and no control characters but tab and newline."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, data: bytes, final: bool = False) -> str:
        """The text that is complete by now."""
        return self._decoder.decode(data, final).translate(_HARMLESS)


_HARMLESS = {code: "\ufffd" for code in [*range(32), *range(127, 160)] if code not in (9, 10)}


def sample_text(model: Model, prompt: bytes, length: int, drawing: Drawing) -> str:
    """The prompt and its continuation as displayable text."""
    return Display().feed(prompt + bytes(generate(model, prompt, length, drawing)), final=True)
