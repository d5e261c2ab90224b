"""The byte LM in integers: its weights, and predictions for many positions at once.

Qwen3's architecture: norm, attention with normed and rotated queries and keys, norm, SwiGLU. A context is `bos <raw>`
and bytes; what every context shares, the keys and values of these two and the prediction of the first byte, is
computed once. All results are integers that depend on a position's own context alone (see kernels.py).

Legend: as in kernels.py; R rows, S segments, L layers.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch

from shards.codecs.neural import kernels
from shards.errors import ByteproxyError

BOS, RAW = 256, 257  # rows of the embedding behind the 256 bytes
PREFIX = 2  # positions: bos, <raw>
CHUNK = 2048  # positions of a forward pass, or as many as one row has: what lies between products stays in the cache
QUERIES = 256
MOST_CONTEXT = 2048  # see KEY_UNIT

Attend = Callable[..., np.ndarray]  # (layer, q_NHD, q_NH, k_NHD, k_NH, v_NHD) -> out_NA float32


@dataclass(frozen=True)
class Shape:
    """Sizes of the model. `context`: positions, of which two are the prefix."""

    width: int
    layers: int
    heads: int
    head_dim: int
    mlp: int
    context: int

    @property
    def block(self) -> int:
        """Bytes that one context predicts."""
        return self.context - 1

    def tensors(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Name -> dtype and shape of everything that the artifact's file of tensors holds."""
        inner, W, D = self.heads * self.head_dim, self.width, self.head_dim
        found = {"embed": ("int8", (258, W)), "embed.scale": ("float32", (258,)), "norm": ("float32", (W,))}
        found |= {f"rotary.{name}": ("float32", (self.context, D // 2)) for name in ("cos", "sin")}
        found |= {"head": ("int8", (W, 256)), "head.scale": ("float32", (256,))}
        for layer in range(self.layers):
            for name, inputs, outputs in (
                ("qkv", W, 3 * inner), ("out", inner, W), ("gate_up", W, 2 * self.mlp), ("down", self.mlp, W),
            ):  # fmt: skip
                found[f"{layer}.{name}"] = ("int8", (inputs, outputs))
                found[f"{layer}.{name}.scale"] = ("float32", (outputs,))
            found |= {f"{layer}.norm1": ("float32", (W,)), f"{layer}.norm2": ("float32", (W,))}
            found |= {f"{layer}.qk_norm": ("float32", (2, D)), f"{layer}.value": ("float32", (self.heads, D))}
        return found

    def to_json(self) -> dict[str, int]:
        """As plain numbers."""
        return asdict(self)


class Predictions(NamedTuple):
    """Of each byte of a text, integers: what the coder takes, and the entropy of the prediction in 1/1024 bits."""

    below_N: np.ndarray
    share_N: np.ndarray
    total_N: np.ndarray
    entropy_N: np.ndarray

    @classmethod
    def empty(cls, count: int) -> "Predictions":
        """Room for so many bytes."""
        return cls(*(np.empty(count, np.int64) for _ in range(4)))

    def __getitem__(self, where: Any) -> "Predictions":  # type: ignore[override]
        return Predictions(*(array[where] for array in tuple(self)))


class LM:
    """`tensors` as `Shape.tensors` names them, as NumPy arrays."""

    chunk = CHUNK

    def __init__(self, shape: Shape, tensors: Mapping[str, np.ndarray]) -> None:
        self.shape, self.tensors = shape, dict(tensors)
        for name, (dtype, sizes) in shape.tensors().items():
            found = self.tensors.get(name)
            if found is None or (str(found.dtype), found.shape) != (dtype, sizes):
                there = "none" if found is None else f"{found.dtype} {list(found.shape)}"
                raise ByteproxyError(f"neural codec: tensor {name}: {there} found, {dtype} {list(sizes)} expected")
        if shape.context > MOST_CONTEXT or shape.head_dim % 2:
            raise ByteproxyError(f"neural codec: context at most {MOST_CONTEXT} and an even head_dim expected: {shape}")
        self.weights = {n: torch.from_numpy(t) for n, t in self.tensors.items() if t.dtype == np.int8 and n != "embed"}
        self.score = np.float32(1.4426950408889634 * shape.head_dim**-0.5)
        expect_exact_products("cpu")

    def stream(self, ids_N: np.ndarray, position_N: np.ndarray, attend: Attend) -> tuple[Any, Any]:
        """The head's products (N, K) and their rows' scales, for inputs at these positions of their contexts."""
        s, t = self.shape, self.tensors
        N, inner = len(ids_N), s.heads * s.head_dim
        x_NW = t["embed"][ids_N].astype(np.float32) * t["embed.scale"][ids_N, None]
        a_NW, scale_N = np.empty((N, s.width), np.int8), np.empty(N, np.float32)
        hidden_NF, out_NA = np.empty((N, s.mlp), np.int8), np.empty((N, inner), np.int8)
        q_NHD, k_NHD, v_NHD = (np.empty((N, s.heads, s.head_dim), np.int8) for _ in range(3))
        q_NH, k_NH = (np.empty((N, s.heads), np.float32) for _ in range(2))
        for layer in range(s.layers):
            kernels.norm(x_NW, t[f"{layer}.norm1"], a_NW, scale_N)
            kernels.split_heads(
                self.product(a_NW, f"{layer}.qkv"), scale_N, t[f"{layer}.qkv.scale"], t[f"{layer}.qk_norm"],
                t["rotary.cos"], t["rotary.sin"], position_N, self.score, self.inverse_values[layer],
                q_NHD, q_NH, k_NHD, k_NH, v_NHD,
            )  # fmt: skip
            kernels.quantise(attend(layer, q_NHD, q_NH, k_NHD, k_NH, v_NHD), out_NA, scale_N)
            kernels.add(x_NW, self.product(out_NA, f"{layer}.out"), scale_N, t[f"{layer}.out.scale"])
            kernels.norm(x_NW, t[f"{layer}.norm2"], a_NW, scale_N)
            gates_NG = self.product(a_NW, f"{layer}.gate_up")
            kernels.swiglu(gates_NG, scale_N, t[f"{layer}.gate_up.scale"], hidden_NF, scale_N)
            kernels.add(x_NW, self.product(hidden_NF, f"{layer}.down"), scale_N, t[f"{layer}.down.scale"])
        kernels.norm(x_NW, t["norm"], a_NW, scale_N)
        return self.product(a_NW, "head"), scale_N

    def product(self, a_NW: np.ndarray, name: str) -> np.ndarray:
        """int8 times a matrix of weights, int32."""
        return torch._int_mm(torch.from_numpy(a_NW), self.weights[name]).numpy()

    @cached_property
    def inverse_values(self) -> list[np.ndarray]:
        """Of each layer, what makes values integers, (H, D)."""
        return [np.float32(1.0) / self.tensors[f"{layer}.value"] for layer in range(self.shape.layers)]

    @cached_property
    def prefix(self) -> "Prefix":
        """What all contexts begin with."""
        s, kept = self.shape, []

        def attend(layer: int, q: Any, q_scale: Any, k: Any, k_scale: Any, v: Any) -> np.ndarray:
            kept.append((k.copy(), k_scale.copy(), v.copy()))
            out = np.empty((PREFIX, s.heads * s.head_dim), np.float32)
            zero, last = np.zeros(PREFIX, np.int64), np.arange(PREFIX)
            kernels.attend(
                q, q_scale, k, k_scale, v, k[:0], k_scale[:0], v[:0], zero, last, self.tensors[f"{layer}.value"], out
            )
            return out

        product, scale_N = self.stream(np.array([BOS, RAW]), np.arange(PREFIX), attend)
        below, entropy = np.empty((1, 257), np.int64), np.empty(1, np.int64)
        kernels.tables(product[-1:], scale_N[-1:], self.tensors["head.scale"], below, entropy)
        return Prefix(kept, below[0], int(entropy[0]))

    def predict(self, product_NK: Any, scale_N: np.ndarray, target_N: np.ndarray) -> Predictions:
        """Of the bytes that follow."""
        found = Predictions.empty(len(target_N))
        kernels.predict(product_NK, scale_N, self.tensors["head.scale"], target_N, *found)
        return found

    def read_blocks(self, blocks: Sequence[np.ndarray]) -> Predictions:
        """Each block of at most `block` bytes in a context of its own; predictions of all their bytes in turn."""
        order = sorted(range(len(blocks)), key=lambda i: len(blocks[i]))
        begins = np.concatenate(([0], np.cumsum([len(block) for block in blocks]))).astype(np.int64)
        found = Predictions.empty(int(begins[-1]))
        while order:
            length = len(blocks[order[-1]])
            taken = [order.pop() for _ in range(min(len(order), max(1, self.chunk // (length + 1))))]
            ids_RT = np.zeros((len(taken), length + 1), np.int64)  # bos <raw> and all bytes but the last
            ids_RT[:, :PREFIX] = BOS, RAW
            targets_RT = np.zeros((len(taken), length + 1), np.int64)  # the first position predicts nothing
            for row, i in enumerate(taken):
                size = len(blocks[i])
                ids_RT[row, PREFIX : size + 1], targets_RT[row, 1 : size + 1] = blocks[i][:-1], blocks[i]
            positions = np.tile(np.arange(length + 1), len(taken))
            product, scale_N = self.stream(ids_RT.reshape(-1), positions, self._rows(len(taken)))
            here = self.predict(product, scale_N, targets_RT.reshape(-1))
            for row, i in enumerate(taken):
                at = row * (length + 1) + 1
                for mine, all_N in zip(here[at : at + len(blocks[i])], found, strict=True):
                    all_N[begins[i] : begins[i + 1]] = mine
        return found

    def _rows(self, rows: int) -> Attend:
        """Causal attention within rows of one length, by matrix products."""
        s = self.shape

        def attend(layer: int, q: Any, q_scale: Any, k: Any, k_scale: Any, v: Any) -> np.ndarray:
            T, D, value = len(q) // rows, s.head_dim, self.tensors[f"{layer}.value"]
            out = np.empty((len(q), s.heads * D), np.float32)
            q, k, v = (  # (R, H, T, D), so that a head's rows lie together
                torch.from_numpy(np.ascontiguousarray(x.reshape(rows, T, s.heads, D).swapaxes(1, 2))) for x in (q, k, v)
            )
            q_scale, k_scale = (
                np.ascontiguousarray(x.reshape(rows, T, s.heads).swapaxes(1, 2)) for x in (q_scale, k_scale)
            )
            for row, begin in itertools.product(range(rows), range(0, T, QUERIES)):
                end = min(begin + QUERIES, T)
                size = end - begin
                dots = torch.empty((s.heads, size, end), dtype=torch.int32)
                sums = torch.empty((s.heads, 2 * size, D), dtype=torch.int32)
                both, total_HQ = np.empty((s.heads, 2, size, end), np.int8), np.empty((s.heads, size), np.int32)
                for h in range(s.heads):
                    torch._int_mm(q[row, h, begin:end], k[row, h, :end].t(), out=dots[h])
                kernels.softmax(dots.numpy(), q_scale[row, :, begin:end], k_scale[row, :, :end], begin, both, total_HQ)
                weights = torch.from_numpy(both.reshape(s.heads, -1, end))
                for h in range(s.heads):
                    torch._int_mm(weights[h], v[row, h, :end], out=sums[h])
                kernels.mix(sums.numpy(), total_HQ, value, out[row * T + begin : row * T + end])
            return out

        return attend

    def read_segments(self, text_N: np.ndarray, ends_N: np.ndarray) -> Predictions:
        """Each segment in a context of its own, of one text or many: `ends_N` tells the last byte of each."""
        N = len(text_N)
        found = Predictions.empty(N)
        begins_N = np.concatenate(([True], ends_N[:-1])) if N else np.zeros(0, bool)
        firsts = np.flatnonzero(begins_N)
        below = self.prefix.below_B
        byte = text_N[firsts].astype(np.int64)
        found.below_N[firsts], found.share_N[firsts] = below[byte], below[byte + 1] - below[byte]
        found.total_N[firsts], found.entropy_N[firsts] = below[-1], self.prefix.entropy
        self._read_on(text_N, firsts, found)
        return found

    def _read_on(self, text_N: np.ndarray, firsts: np.ndarray, found: Predictions) -> None:
        """Predictions of all bytes but the first of each segment."""
        sizes = np.diff(firsts, append=len(text_N))
        start_N = np.repeat(firsts, sizes)  # of each byte's segment
        last_N = np.repeat(firsts + sizes - 1, sizes)
        inputs = np.flatnonzero(np.arange(len(text_N)) < last_N)  # the last byte of a segment is no input
        at = 0
        while at < len(inputs):
            until = min(at + self.chunk, len(inputs))
            if until < len(inputs):  # never within a segment
                until = int(np.searchsorted(inputs, start_N[inputs[until]]))
            part = inputs[at:until]
            position = part - start_N[part]
            here = np.arange(len(part))
            first = here - position
            product, scale_N = self.stream(
                text_N[part].astype(np.int64), PREFIX + position, self.cached(None, None, first, here)
            )
            for mine, all_N in zip(self.predict(product, scale_N, text_N[part + 1].astype(np.int64)), found,
                                   strict=True):  # fmt: skip
                all_N[part + 1] = mine
            at = until

    def cached(self, cache: "Cache | None", write_N: Any, first_N: np.ndarray, last_N: np.ndarray) -> Attend:
        """Attention to the prefix and to positions [first, last] of a cache, or of this pass itself where None."""
        s = self.shape

        def attend(layer: int, q: Any, q_scale: Any, k: Any, k_scale: Any, v: Any) -> np.ndarray:
            if cache is not None:
                keys, scales, values = cache.keys[layer], cache.scales[layer], cache.values[layer]
                keys[write_N], scales[write_N], values[write_N] = k, k_scale, v
                k, k_scale, v = keys, scales, values
            out = np.empty((len(q), s.heads * s.head_dim), np.float32)
            kernels.attend(
                q, q_scale, k, k_scale, v, *self.prefix.layers[layer], first_N, last_N,
                self.tensors[f"{layer}.value"], out,
            )  # fmt: skip
            return out

        return attend


class Prefix(NamedTuple):
    """Keys, their scales and values of `bos <raw>` by layer; the weights of a first byte, cumulated; its entropy."""

    layers: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
    below_B: np.ndarray
    entropy: int


class Cache:
    """Keys and values of `slots` contexts of at most `length` bytes, by layer: slot s lies at s * length."""

    def __init__(self, shape: Shape, slots: int, length: int) -> None:
        self.length = length
        rows = (shape.layers, slots * length, shape.heads)
        self.keys, self.values = (np.zeros((*rows, shape.head_dim), np.int8) for _ in range(2))
        self.scales = np.zeros(rows, np.float32)


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch: workers are processes, and such small products gain little from more. Changes no bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def expect_exact_products(device: torch.device | str) -> None:
    """Raise ByteproxyError where int8 products saturate, as on some processors without instructions for them."""
    draw = np.random.default_rng(0)
    a, b = (np.sign(draw.integers(0, 2, shape) * 2 - 1).astype(np.int8) * 127 for shape in ((33, 256), (256, 64)))
    a[0], b[:, 0] = 127, 127
    exact = a.astype(np.int64) @ b.astype(np.int64)
    one, other = (torch.from_numpy(np.ascontiguousarray(x)).to(device) for x in (a, b.T))  # columns lie together
    found = torch._int_mm(one, other.t()).cpu().numpy()
    if not np.array_equal(found, exact):
        raise ByteproxyError(
            f"neural codec: torch multiplies int8 inexactly on this processor ({device}); use another machine"
        )


def read_shape(text: bytes, where: str) -> dict[str, Any]:
    """The content of lm.json."""
    try:
        body: dict[str, Any] = json.loads(text)
        body["shape"] = Shape(**{name: int(value) for name, value in body["shape"].items()})
        return body
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ByteproxyError(f"{where}: not the description of a language model ({error}); restore it") from None
