"""The LM's forward pass in torch operations, for a GPU: the integers of lm.py and kernels.py, in larger batches.

Each step of kernels.py is one torch operation here, never compiled or fused, for two steps made one are rounded once.
Eager operations on CUDA are IEEE's own, with one trap: a division by a Python number multiplies by its reciprocal
instead, so all divisors are tensors. Sums are of integers, or of integers held in floats and never beyond 2**24, which
floats add exactly in any order: attention's dot products, and its weights' two halves times values.

A document's symbols do not tell where they were computed, so the device is no part of a view. `for_encoding` chooses.

Legend: as in kernels.py; R rows, G = R * H, P = 2 positions that all contexts share.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from shards.codecs.neural import kernels
from shards.codecs.neural.kernels import BYTE_UNIT, ENTROPY_UNIT, KEY_UNIT, SIGMOID_UNIT
from shards.codecs.neural.lm import LM, PREFIX, Predictions, expect_exact_products
from shards.errors import ByteproxyError

VARIABLE = "BYTEPROXY_DEVICE"  # of the environment: cpu, cuda, cuda:1
ELEMENTS = 1 << 24  # of the stream in one pass, positions times width: about 3 GB of memory
PAIRS = 1 << 25  # of queries and keys whose weights are held
MOST_GROUPS = 65535  # in one batched product
QUERIES = 256  # a block of queries looks only at the keys up to its end
EXACT_KEYS = 1024  # 1,040 products of 127 * 127 stay below 2**24
MULTIPLE, LEAST = 8, 24  # what int8 products on CUDA want: sizes by eights, more than 16 rows

TOP, TINY, FIXED, CLAMP, EPSILON, LOG2E, MAGIC, FAR = (
    float(getattr(kernels, name)) for name in ("TOP", "TINY", "FIXED", "CLAMP", "EPSILON", "LOG2E", "MAGIC", "FAR")
)
POLYNOMIAL = tuple(float(getattr(kernels, f"C{degree}")) for degree in (5, 4, 3, 2, 1, 0))

_BUSY = threading.Lock()  # a worker's threads take turns: the memory of one pass is enough


def for_encoding(lm: LM) -> LM:
    """This LM where the environment says: BYTEPROXY_DEVICE, else a CUDA device if there is one, else itself.

    Raises ByteproxyError if the device is not there, or computes other integers.
    """
    count = torch.cuda.device_count()
    there = ["cpu", *(["cuda"] if count else []), *(f"cuda:{i}" for i in range(count))]
    wanted = os.environ.get(VARIABLE) or there[min(1, count)]
    if wanted not in there:
        raise ByteproxyError(f"{VARIABLE}={wanted}: not found here; there is {', '.join(there)}")
    if wanted == "cpu":
        return lm
    device = f"cuda:{os.getpid() % count}" if wanted == "cuda" else wanted  # workers are spread over several
    found = DeviceLM(lm, device)
    found.expect_same()
    return found


class DeviceLM(LM):
    """An LM whose passes over many positions run on a torch device, `elements` of the stream at once.

    For encoding: `read_blocks` and `read_segments` give the integers that `host` gives.
    """

    def __init__(self, host: LM, device: torch.device | str, elements: int = ELEMENTS) -> None:
        self.shape, self.tensors, self.host, self.device = host.shape, host.tensors, host, torch.device(device)
        self.chunk = max(1, elements // host.shape.width)
        self.on = {n: torch.from_numpy(t).to(self.device) for n, t in host.tensors.items() if n not in host.weights}
        self.weights = {n: self._columns(t) for n, t in host.weights.items()}
        self.inverse = [torch.from_numpy(each).to(self.device) for each in host.inverse_values]
        self.shared = [tuple(torch.from_numpy(x).to(self.device).float() for x in each) for each in host.prefix.layers]
        self.prefix = host.prefix
        expect_exact_products(self.device)

    def _columns(self, weight_KN: Tensor) -> Tensor:
        """A matrix padded to whole eights, its columns lying together, as CUDA's int8 products want them."""
        K, N = weight_KN.shape
        return pad(weight_KN, (0, -N % MULTIPLE, 0, -K % MULTIPLE)).to(self.device).t().contiguous().t()

    def _number(self, value: Any) -> Tensor:
        """A divisor or dividend: see above."""
        return torch.full((), float(value), dtype=torch.float32, device=self.device)

    def expect_same(self) -> None:
        """Raise ByteproxyError unless a block and some segments have the host's integers."""
        text_N = (np.arange(min(300, self.shape.block)) * 89 % 127).astype(np.uint8)
        ends_N = np.arange(1, len(text_N) + 1) % 7 == 0
        ends_N[-1:] = True
        for one, other in ((self.host.read_blocks([text_N]), self.read_blocks([text_N])),
                           (self.host.read_segments(text_N, ends_N), self.read_segments(text_N, ends_N))):  # fmt: skip
            if not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True)):
                raise ByteproxyError(
                    f"neural codec: {self.device} computes other integers than the CPU; set {VARIABLE}=cpu"
                )

    def read_blocks(self, blocks: Any) -> Predictions:
        with self._passes():
            return super().read_blocks(blocks)

    def read_segments(self, text_N: np.ndarray, ends_N: np.ndarray) -> Predictions:
        with self._passes():
            return super().read_segments(text_N, ends_N)

    @contextmanager
    def _passes(self) -> Iterator[None]:
        """One thread at a time, no gradients, float32 products at full precision (all factors are small integers)."""
        with _BUSY, torch.inference_mode():
            before = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("highest")
            try:
                yield
            except torch.OutOfMemoryError as error:
                raise ByteproxyError(
                    f"neural codec: not enough memory on {self.device}; use fewer workers, or set {VARIABLE}=cpu"
                ) from error
            finally:
                torch.set_float32_matmul_precision(before)

    def _read_on(self, text_N: np.ndarray, firsts: np.ndarray, found: Predictions) -> None:
        """As in LM, but segments of like length lie together, padded to the longest of a pass."""
        inputs = np.diff(firsts, append=len(text_N)) - 1  # the last byte of a segment is no input
        order = np.argsort(-inputs, kind="stable")
        order = order[: np.count_nonzero(inputs)]
        while len(order):
            length = int(inputs[order[0]])
            taken, order = np.split(order, [max(1, self.chunk // length)])
            here_RT = np.arange(length)
            at_RT = firsts[taken, None] + np.minimum(here_RT, inputs[taken, None] - 1)
            positions = np.tile(PREFIX + here_RT, len(taken))
            ids_N, targets_N = (text_N[at_RT.reshape(-1) + i].astype(np.int64) for i in (0, 1))
            seen = self.predict(*self.stream(ids_N, positions, self._rows(len(taken), True)), targets_N)
            there = here_RT < inputs[taken, None]
            for mine, all_N in zip(seen[there.reshape(-1)], found, strict=True):
                all_N[at_RT[there] + 1] = mine

    def stream(self, ids_N: np.ndarray, position_N: np.ndarray, attend: Callable[..., Any]) -> tuple[Any, Any]:
        s, t = self.shape, self.on
        ids, position = (torch.from_numpy(np.ascontiguousarray(x)).to(self.device) for x in (ids_N, position_N))
        x_NW = t["embed"][ids].float() * t["embed.scale"][ids, None]
        cos, sin = (t[f"rotary.{name}"][position][:, None, None] for name in ("cos", "sin"))
        for layer in range(s.layers):
            a_NW, scale_N1 = self._norm(x_NW, t[f"{layer}.norm1"])
            heads = self._product(a_NW, f"{layer}.qkv", scale_N1).view(-1, 3, s.heads, s.head_dim)
            qk, scale_N2H = self._queries_and_keys(heads[:, :2], t[f"{layer}.qk_norm"], cos, sin)
            v = _round((heads[:, 2] * self.inverse[layer]).clamp_(-TOP, TOP))
            q_scale_NH = scale_N2H[:, 0] * float(self.host.score)
            out_NA, top_N1 = self._to_integers(attend(layer, qk[:, 0], q_scale_NH, qk[:, 1], scale_N2H[:, 1], v))
            x_NW += self._product(out_NA, f"{layer}.out", top_N1 / self._number(TOP))
            a_NW, scale_N1 = self._norm(x_NW, t[f"{layer}.norm2"])
            hidden_NF, top_N1 = self._to_integers(_swiglu(self._product(a_NW, f"{layer}.gate_up", scale_N1)))
            x_NW += self._product(hidden_NF, f"{layer}.down", top_N1 / self._number(TOP))
        a_NW, scale_N1 = self._norm(x_NW, t["norm"])
        return self._product(a_NW, "head", scale_N1), None

    def _product(self, a_NK: Tensor, name: str, scale_N1: Tensor) -> Tensor:
        """Integers times a matrix of weights, times both scales."""
        (rows, inner), outputs = a_NK.shape, len(self.on[f"{name}.scale"])
        a = pad(a_NK.to(torch.int8), (0, -inner % MULTIPLE, 0, max(LEAST - rows, -rows % MULTIPLE)))
        product = torch._int_mm(a, self.weights[name])[:rows, :outputs]
        return product.float().mul_(self.on[f"{name}.scale"]).mul_(scale_N1)

    def _to_integers(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Rows as integers, the largest 127, and what it was."""
        top = x.abs().amax(-1, keepdim=True)
        return _round(x * (self._number(TOP) / top.clamp_min(TINY))), top

    def _inverse_rms(self, x: Tensor) -> Tensor:
        fixed = _round((x * FIXED).clamp_(-CLAMP, CLAMP)).long()
        mean = fixed.mul_(fixed).sum(-1, keepdim=True).float() / self._number(x.shape[-1] * FIXED * FIXED)
        root = mean.add_(EPSILON).double().sqrt_().float()  # torch's own for float32 is not IEEE's on every CPU
        return self._number(1) / root

    def _norm(self, x_NW: Tensor, gain_W: Tensor) -> tuple[Tensor, Tensor]:
        a_NW, top_N1 = self._to_integers(x_NW * gain_W)
        return a_NW, (top_N1 / self._number(TOP)) * self._inverse_rms(x_NW)

    def _queries_and_keys(self, x: Tensor, gains_2D: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 2, H, D) normed, rotated, as integers; their scales (N, 2, H)."""
        first, second = (x * gains_2D[:, None]).chunk(2, -1)
        turned = torch.cat((first * cos - second * sin, second * cos + first * sin), -1)
        integers, top = self._to_integers(turned)
        return integers, ((top / self._number(TOP)) * self._inverse_rms(x))[..., 0]

    def _rows(self, rows: int, prefixed: bool = False) -> Callable[..., Any]:
        """Causal attention within rows of one length; `prefixed`: behind the two positions that all share."""
        s = self.shape

        def attend(layer: int, q: Tensor, q_scale: Tensor, k: Tensor, k_scale: Tensor, v: Tensor) -> Tensor:
            q, k, v = (x.reshape(rows, -1, s.heads, s.head_dim).transpose(1, 2) for x in (q, k, v))
            q_scale, k_scale = (x.reshape(rows, -1, s.heads, 1).transpose(1, 2) for x in (q_scale, k_scale))
            if prefixed:
                shared = (x.reshape(PREFIX, s.heads, -1).transpose(0, 1) for x in self.shared[layer])
                k, k_scale, v = (
                    torch.cat((a.expand(rows, -1, -1, -1), b), 2) for a, b in zip(shared, (k, k_scale, v), strict=True)
                )
            value = self.on[f"{layer}.value"][:, None].repeat(rows, 1, 1)
            q, q_scale, k, k_scale, v = (x.flatten(0, 1) for x in (q, q_scale, k, k_scale, v))
            out = self._attention(q, q_scale, k, k_scale, v, value)
            return out.view(rows, s.heads, -1, s.head_dim).transpose(1, 2).reshape(-1, s.heads * s.head_dim)

        return attend

    def _attention(self, q: Tensor, q_scale: Tensor, k: Tensor, k_scale: Tensor, v: Tensor, value: Tensor) -> Tensor:
        """Queries (G, T, D), keys (G, P + T, D) and values alike, scales (G, ., 1), values' scales (G, 1, D)."""
        (G, T, _), P, out = q.shape, k.shape[1] - q.shape[1], torch.empty_like(q)
        size = min(T, QUERIES)
        later = torch.ones(size, size, dtype=torch.bool, device=self.device).triu_(1)
        step = min(MOST_GROUPS, max(1, PAIRS // (size * (P + T))))
        for group in (slice(first, first + step) for first in range(0, G, step)):
            for begin in range(0, T, size):
                end = min(begin + size, T)
                here, seen, n = (group, slice(begin, end)), (group, slice(P + end)), end - begin
                score = torch.bmm(q[here], k[seen].transpose(1, 2))
                score.mul_(k_scale[seen].transpose(1, 2)).mul_(q_scale[here])
                score[:, :, P + begin :].masked_fill_(later[:n, :n], -torch.inf)
                weight = _power(torch.sub(score.amax(-1, keepdim=True), score, out=score), KEY_UNIT)
                total = weight.sum(-1, keepdim=True).float()
                halves = torch.cat((weight >> 7, weight & 127), 1).float()
                sums = torch.zeros(len(halves), 2 * n, q.shape[2], dtype=torch.int32, device=self.device)
                for at in range(0, P + end, EXACT_KEYS):
                    keys = slice(at, min(at + EXACT_KEYS, P + end))
                    sums += torch.bmm(halves[:, :, keys], v[group, keys]).int()
                both = sums[:, :n].mul_(128).add_(sums[:, n:])
                out[here] = both.float().mul_(value[group]) / total
        return out

    def predict(self, product_NK: Any, scale_N: Any, target_N: np.ndarray) -> Predictions:
        target = torch.from_numpy(target_N).to(self.device)[:, None]
        t = (product_NK.amax(-1, keepdim=True) - product_NK).clamp_max_(FAR)
        milli_bits = (t * ENTROPY_UNIT).long()
        weight = _power(t, BYTE_UNIT).long()
        total = weight.sum(-1)
        entropy = (milli_bits.mul_(weight).sum(-1) // total + _log2(total) - 16 * ENTROPY_UNIT).clamp_min_(0)
        share = weight.gather(1, target)[:, 0]
        below = weight.cumsum(-1).gather(1, target)[:, 0] - share
        return Predictions(*torch.stack((below, share, total, entropy)).cpu().numpy())


def _round(x: Tensor) -> Tensor:
    """In place, to whole numbers, ties to even."""
    return x.add_(MAGIC).sub_(MAGIC)


def _power(t: Tensor, unit: Any) -> Tensor:
    """unit * 2**-t for t >= 0, as int32; `t` is used up."""
    whole = t.clamp_max_(FAR).int()
    part = t.sub_(whole)
    p = part * POLYNOMIAL[0]
    for c in POLYNOMIAL[1:-1]:
        p.add_(c).mul_(part)
    p.add_(POLYNOMIAL[-1])
    return _round(p.mul_(float(unit))).int().bitwise_right_shift_(whole)


def _swiglu(x_NG: Tensor) -> Tensor:
    """silu(gate) * up; gates are the first half."""
    gate, up = x_NG.chunk(2, -1)
    power = _power(gate.abs().mul_(LOG2E), SIGMOID_UNIT).float().mul_(1 / float(SIGMOID_UNIT))  # exact: a power of two
    over = torch.where(gate >= 0, 1.0, power)
    return (over / power.add_(1.0)).mul_(gate).mul_(up)


def _log2(x: Tensor) -> Tensor:
    """Of whole numbers from 1 to below 2**24, in 1 / ENTROPY_UNIT, rounded down, in integers."""
    whole = torch.frexp(x.float())[1].long() - 1
    y, bits = x << (30 - whole), torch.zeros_like(x)
    for _ in range(10):
        y = (y * y) >> 30
        carry = y >> 31
        y >>= carry
        bits = (bits << 1) + carry
    return whole * ENTROPY_UNIT + bits
