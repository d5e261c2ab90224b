"""Arithmetic coding with the model: bytes to words and back, bit for bit.

A byte model gives other floats when it reads many positions at once than when it reads them one by one, and a coder
whose two sides differ in one last bit decodes nonsense. So both sides make the same calls with the same shapes, step by
step: the text is cut into *lanes* of equal length, all lanes go forward by one byte a step through a KV cache, and
where a lane outgrows the context, its last half is read again. `encode` and `decode` differ only in where a step's
bytes come from. What the product with an order-2 model makes of the predictions (see order2.py) is rounded to whole
numbers, and these are what the range coder of `constriction` sees.

The same calls give the same floats only on a machine that computes alike: `probe` is a digest of some tables, stored
with the words and compared before anything is decoded. Every CHECK_EVERY steps the words also hold 16 bits of a digest
of the text so far, so that a decoder that went astray says so and stops.

Legend: L lanes, T steps (bytes of a lane), H bytes of half a context, S = 256 byte values.
"""

import json
from collections.abc import Callable
from hashlib import blake2b

import constriction
import numpy as np
import torch
import xxhash

from shards.errors import ByteproxyError
from trainer.model import Model
from trainer.order2 import Experts
from trainer.sample import KVCache
from trainer.specials import BOS, SPECIALS, opener

LANE_BYTES = 8192  # shortest lane by default: each begins without context, which costs bits
MAX_LANES = 256
CACHE_BYTES = 1 << 30  # of all lanes' keys and values, by default
READ_AT_ONCE = 1 << 15  # positions of one forward pass, at most
CHECK_EVERY = 1024
_CHECK = constriction.stream.model.Uniform(1 << 16)
_BYTES = constriction.stream.model.Categorical(perfect=False)
_SHAPE = ("width", "layers", "heads", "kv_heads", "head_dim", "mlp", "context", "rope_theta")

Progress = Callable[[int, int], None]  # steps done, steps in all


def lanes_for(model: Model, length: int) -> int:
    """Lanes for a text of so many bytes: more are faster, fewer compress better."""
    config = model.config
    cache = 2 * config.layers * config.kv_heads * config.head_dim * config.context * model.dtype.itemsize
    return max(1, min(length // LANE_BYTES, MAX_LANES, CACHE_BYTES // cache))


class Predictor:
    """Tables of each lane's next byte, from all that was read: what both sides compute alike."""

    def __init__(self, model: Model, lanes: int) -> None:
        self.model, self.device, self.half = model, model.norm.weight.device, model.config.context // 2
        size = max(1, READ_AT_ONCE // (self.half + 2))
        self.groups = [slice(first, min(first + size, lanes)) for first in range(0, lanes, size)]
        self.caches = [KVCache(model, model.config.context, group.stop - group.start) for group in self.groups]
        self.experts, self.lanes = Experts(lanes), lanes
        self.recent_LH = np.zeros((lanes, 0), np.uint8)
        self.tables_LS = self.begin()

    def begin(self) -> np.ndarray:
        """Forget the text; read each lane's last half context behind `bos <raw>`."""
        for cache in self.caches:
            cache.used = 0
        start_L2 = np.tile(np.array([BOS, opener(0)], np.int64), (self.lanes, 1))
        return self._read(np.concatenate((start_L2, self.recent_LH.astype(np.int64) + SPECIALS), 1))

    def read(self, bytes_L: np.ndarray, live: int) -> np.ndarray:
        """Read one byte more in each lane, of which the first `live` count; returns the tables of the next, (L, S)."""
        self.experts.learn(bytes_L[:live])
        self.recent_LH = np.concatenate((self.recent_LH, bytes_L[:, None]), 1)[:, -self.half :]
        if self.caches[0].used == self.caches[0].length:
            self.tables_LS = self.begin()
        else:
            self.tables_LS = self._read(bytes_L[:, None].astype(np.int64) + SPECIALS)
        return self.tables_LS

    @torch.inference_mode()
    def _read(self, ids_LT: np.ndarray) -> np.ndarray:
        logs = []
        for group, cache in zip(self.groups, self.caches, strict=True):
            ids = torch.from_numpy(np.ascontiguousarray(ids_LT[group])).to(self.device)
            positions = torch.arange(cache.used, cache.used + ids.shape[1], device=self.device).expand(ids.shape)
            x = self.model(ids, torch.zeros_like(ids), positions, cache.attend)[:, -1]
            cache.used += ids.shape[1]
            logs.append(self.model.logits(x.float(), 0)[:, SPECIALS:].log_softmax(-1))
        return self.experts.tables(torch.cat(logs).cpu().numpy())


def encode(model: Model, data: bytes, lanes: int, progress: Progress | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The words of a text, (words,) uint32; and nats of the model alone, of order 2 alone and of both, (3,)."""
    text = np.frombuffer(data, np.uint8)
    steps = -(-len(text) // lanes)
    text_LT = np.zeros((lanes, steps), np.uint8)
    text_LT.reshape(-1)[: len(text)] = text
    predictor, encoder, check = Predictor(model, lanes), constriction.stream.queue.RangeEncoder(), xxhash.xxh3_64()
    for step in range(steps):
        bytes_L, live = np.ascontiguousarray(text_LT[:, step]), live_lanes(len(text), steps, step)
        encoder.encode(bytes_L[:live].astype(np.int32), _BYTES, predictor.tables_LS[:live])
        check.update(bytes_L.tobytes())
        if (step + 1) % CHECK_EVERY == 0:
            encoder.encode(check.intdigest() & 0xFFFF, _CHECK)
        if step + 1 < steps:
            predictor.read(bytes_L, live)
        else:
            predictor.experts.learn(bytes_L[:live])
        if progress:
            progress(step + 1, steps)
    return encoder.get_compressed(), predictor.experts.nats_3


def decode(model: Model, words: np.ndarray, length: int, lanes: int, progress: Progress | None = None) -> bytes:
    """The text of these words. Raises ByteproxyError where they cannot be this model's."""
    steps = -(-length // lanes)
    text_LT = np.zeros((lanes, steps), np.uint8)
    predictor, check = Predictor(model, lanes), xxhash.xxh3_64()
    decoder = constriction.stream.queue.RangeDecoder(words)
    for step in range(steps):
        bytes_L, live = np.zeros(lanes, np.uint8), live_lanes(length, steps, step)
        try:
            bytes_L[:live] = decoder.decode(_BYTES, predictor.tables_LS[:live])
            astray = (step + 1) % CHECK_EVERY == 0
            check.update(bytes_L.tobytes())
            astray = astray and decoder.decode(_CHECK) != check.intdigest() & 0xFFFF
        except AssertionError:  # constriction's word for words that no encoder wrote with these tables
            astray = True
        if astray:
            raise ByteproxyError(
                f"decoding went astray by step {step + 1} of {steps}: this machine computes other numbers than the one "
                "that compressed; decompress on that kind of machine, with its version of torch"
            )
        text_LT[:, step] = bytes_L
        if step + 1 < steps:
            predictor.read(bytes_L, live)
        if progress:
            progress(step + 1, steps)
    return text_LT.tobytes()[:length]


def live_lanes(length: int, steps: int, step: int) -> int:
    """How many lanes still have a byte at this step: the last ones may be shorter, or empty."""
    return -(-(length - step) // steps)


def probe(model: Model, lanes: int) -> bytes:
    """8 bytes that tell whether this machine computes the tables that another did: of a long read and three steps."""
    predictor = Predictor(model, lanes)
    text_LT = np.random.default_rng(0).integers(32, 127, (lanes, predictor.half + 3)).astype(np.uint8)
    digest = xxhash.xxh3_64(predictor.tables_LS.tobytes())
    predictor.recent_LH = text_LT[:, :-3]
    digest.update(predictor.begin().tobytes())
    for step in range(-3, 0):
        digest.update(predictor.read(np.ascontiguousarray(text_LT[:, step]), lanes).tobytes())
    return digest.digest()


def model_digest(model: Model) -> bytes:
    """BLAKE2b-128 of what predicts raw bytes: sizes and weights, without the tables of compressed views."""
    digest = blake2b(json.dumps([getattr(model.config, name) for name in _SHAPE]).encode(), digest_size=16)
    for name, parameter in sorted(model.named_parameters()):
        if not name.startswith(("embed_tokens.", "lm_head.")) or name.split(".")[1] == "0":
            digest.update(f"{name} {list(parameter.shape)}\n".encode())
            digest.update(parameter.detach().cpu().numpy().tobytes())
    return digest.digest()
