"""Sampling: bytes in, bytes out. `bos <raw>` and a prompt are read at once, then byte after byte through a KV cache.

Only bytes and `</raw>` can be drawn. A model's rows are `context` long; where a text outgrows them, its last half is
read again behind a new `bos <raw>`, as training does with a row that begins inside a document.

Legend: R rows, a text each, T positions, H query heads, G key-value heads, D width of a head, K rows of the raw table.
"""

import codecs
import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from shards.errors import ByteproxyError
from trainer.model import Model
from trainer.specials import BOS, PAD, RAW_ROWS, SPECIALS, closer, opener

END = closer(0)
ROWS = 4  # texts read at once; a single one has idle rows beside it, so that it comes out as it would among others
KEY_BLOCK = 64  # keys are looked at in whole blocks: more masked ones behind the last then change no bit
DOCUMENT, LENGTH, STOP = "document", "length", "stop"


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
    """How a byte is drawn. Temperature 0 takes the likeliest; top_k 0 and top_p 1 leave all. `stop`: ends of a text."""

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 0.95
    seed: int = 0
    stop: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ByteproxyError(
                f"temperature {self.temperature}, top-k {self.top_k}, top-p {self.top_p} found; "
                "expected temperature and top-k of 0 or more, and top-p in (0, 1]"
            )
        if not all(self.stop):
            raise ByteproxyError("--stop: nothing found, at least one byte expected")


class Sampler:
    """Reads and continues `rows` texts, each in a row of its own: `prefill` one, then `step_all` with an id for each.

    A row's logits depend on its text and on how many rows there are, and on nothing in the other rows, bit for bit:
    a prompt is read alone, a step works on all rows always, and each key lies at its position whatever lies beside it.
    """

    def __init__(self, model: Model, rows: int = 1) -> None:
        self.model, self.device, self.length = model, model.norm.weight.device, model.config.context
        self.cache = KVCache(model, -(-self.length // KEY_BLOCK) * KEY_BLOCK, rows)
        self.used_R = [0] * rows

    @torch.inference_mode()
    def prefill(self, text: bytes, row: int = 0) -> Tensor:
        """Forget the row's text, read `bos <raw> text`; logits of the next id, (K,) float32. The text must fit."""
        ids_1T = torch.tensor([[BOS, opener(0), *(SPECIALS + byte for byte in text)]], device=self.device)
        own = copy.copy(self.cache)
        own.memory, own.used = self.cache.memory[:, :, row : row + 1], 0
        positions_1T = torch.arange(ids_1T.shape[1], device=self.device)[None]
        x_1TW = self.model(ids_1T, torch.zeros_like(ids_1T), positions_1T, own.attend)
        self.used_R[row] = ids_1T.shape[1]
        return self.model.logits(x_1TW[:, -1].float(), 0)[0]

    def step(self, token: int) -> Tensor:
        """Of a single text: read one more id; logits of the next, (K,) float32."""
        return self.step_all([token])[0]

    @torch.inference_mode()
    def step_all(self, tokens_R: Sequence[int | None]) -> Tensor:
        """Read one more id in each row (None: in this row nothing); logits of the next, (R, K) float32."""
        at_R = [min(used, self.cache.length - 1) for used in self.used_R]  # what None leaves there is written over
        end = -(-(max(at_R) + 1) // KEY_BLOCK) * KEY_BLOCK
        at, rows = torch.tensor(at_R, device=self.device), torch.arange(len(at_R), device=self.device)
        seen_R11T = (torch.arange(end, device=self.device) <= at[:, None])[:, None, None]

        def attend(layer: int, q_R1HD: Tensor, k_R1GD: Tensor, v_R1GD: Tensor) -> Tensor:
            k_RGTD, v_RGTD = self.cache.memory[:, layer, :, :, :end]
            k_RGTD[rows, :, at], v_RGTD[rows, :, at] = k_R1GD[:, 0], v_R1GD[:, 0]
            grouped = q_R1HD.shape[2] != k_R1GD.shape[2]
            out_RH1D = nn.functional.scaled_dot_product_attention(
                q_R1HD.transpose(1, 2), k_RGTD, v_RGTD, attn_mask=seen_R11T, enable_gqa=grouped
            )
            return out_RH1D.transpose(1, 2)

        ids_R1 = torch.tensor([[PAD if token is None else token] for token in tokens_R], device=self.device)
        x_RW = self.model(ids_R1, torch.zeros_like(ids_R1), at[:, None], attend)[:, 0]
        for row, token in enumerate(tokens_R):
            self.used_R[row] += token is not None
        return self.model.logits(x_RW.float(), 0)

    def room(self, row: int) -> int:
        """Ids that can still be read in a row."""
        return self.length - self.used_R[row]


class _Text:
    """A text in the making: prompt and continuation, its own draws, and bytes held back as they may begin a stop."""

    def __init__(self, number: int, prompt: bytes, length: int, drawing: Drawing) -> None:
        self.number, self.whole, self.left, self.drawing = number, bytearray(prompt), length, drawing
        self.generator, self.held, self.ended = torch.Generator().manual_seed(drawing.seed), b"", ""

    def take(self, logits_K: Tensor) -> tuple[int, bytes]:
        """Draw the next id from its logits; returns it and the bytes that are settled by it."""
        token = draw(logits_K, self.drawing, self.generator) if self.left else END
        if token == END:
            self.ended = DOCUMENT if self.left else LENGTH
            return token, self.held
        self.whole.append(token - SPECIALS)
        self.left -= 1
        settled, self.held, stopped = settle(self.held + bytes([token - SPECIALS]), self.drawing.stop)
        self.ended = STOP if stopped else LENGTH if not self.left else ""
        return token, settled + self.held if self.ended == LENGTH else settled


def settle(held: bytes, stops: Sequence[bytes]) -> tuple[bytes, bytes, bool]:
    """Of bytes whose last is new: what may be shown, what may begin a stop, and whether one is complete.

    A complete stop is cut off, the longest if several end here.
    """
    if found := max((len(stop) for stop in stops if held.endswith(stop)), default=0):
        return held[:-found], b"", True
    keep = max((n for stop in stops for n in range(1, len(stop)) if held.endswith(stop[:n])), default=0)
    return held[: len(held) - keep], held[len(held) - keep :], False


def generate_all(
    model: Model, prompts: Iterable[bytes], length: int, drawing: Drawing, rows: int = ROWS
) -> Iterator[tuple[int, bytes, str]]:
    """Continue many prompts, `rows` at once, each by up to `length` bytes; a row that is done takes the next prompt.

    Yields as they come: the prompt's number, bytes that continue it, and at last how it ended (DOCUMENT, LENGTH, STOP),
    until then "". A text is what it would be alone, with the same seed and as many rows.
    """
    sampler, half = Sampler(model, rows), model.config.context // 2
    waiting = (_Text(number, prompt, length, drawing) for number, prompt in enumerate(prompts))
    texts_R: list[_Text | None] = [None] * rows
    logits_R = [torch.empty(0)] * rows
    while True:
        for row in range(rows):
            if texts_R[row] is None and (text := next(waiting, None)):
                whole = bytes(text.whole)
                logits_R[row] = sampler.prefill(whole if len(whole) + 2 <= sampler.length else whole[-half:], row)
                texts_R[row] = text
        if not any(texts_R):
            return
        tokens_R: list[int | None] = [None] * rows
        for row, text in enumerate(texts_R):
            if text is None:
                continue
            token, settled = text.take(logits_R[row])
            if settled or text.ended:
                yield text.number, settled, text.ended
            if text.ended:
                texts_R[row] = None
            elif sampler.room(row):
                tokens_R[row] = token
            else:
                logits_R[row] = sampler.prefill(bytes(text.whole[-half:]), row)
        for row, logits_K in enumerate(sampler.step_all(tokens_R) if any(tokens_R) else ()):
            if tokens_R[row]:
                logits_R[row] = logits_K


def generate(model: Model, prompt: bytes, length: int, drawing: Drawing) -> Iterator[int]:
    """Up to `length` bytes that continue the prompt, one by one; ends early where the model closes the document."""
    for _, settled, _ in generate_all(model, [prompt], length, drawing):
        yield from settled


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
