"""The neural codec's forward pass in torch operations gives the integers of the other one: on a CPU here, on a GPU
where there is one (`python -m pytest -m gpu tests/shards/codecs/test_neural_device.py`)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from shards.codecs.neural import device as module
from shards.codecs.neural.codec import Neural, write_artifact
from shards.codecs.neural.device import VARIABLE, DeviceLM, for_encoding
from shards.codecs.neural.lm import LM, Predictions, Shape
from shards.codecs.neural.quantise import quantise, random_weights
from shards.codecs.windows.segments import LONGEST
from shards.errors import ByteproxyError

ROUND = Shape(width=64, layers=2, heads=2, head_dim=32, mlp=96, context=96)
UNEVEN = Shape(width=50, layers=3, heads=3, head_dim=22, mlp=75, context=81)  # nothing is a multiple of eight
LONG = Shape(width=24, layers=1, heads=1, head_dim=16, mlp=24, context=1500)  # sums of more keys than floats hold
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
SOURCE = np.frombuffer(Path(__file__).read_bytes(), np.uint8)


def random_model(shape: Shape) -> LM:
    values = np.full((shape.layers, shape.heads, shape.head_dim), 4.0)
    return LM(shape, quantise(shape, random_weights(shape, 0, 4.0), values, 1e4))


def trained_like_model(shape: Shape) -> LM:
    """Heavy tails, channels that stand out, uneven norms, values cut off."""
    draw, weights = np.random.default_rng(1), random_weights(shape, 1, 0.004)
    for name, weight in weights.items():
        if weight.ndim == 1:
            weights[name] = np.exp(draw.standard_normal(weight.shape)).astype(np.float32)
        else:
            weights[name] = (weight * draw.standard_t(3, weight.shape)).astype(np.float32)
            weights[name][:, :: max(1, weight.shape[1] // 3)] *= 20
    values = np.exp(draw.standard_normal((shape.layers, shape.heads, shape.head_dim)))
    return LM(shape, quantise(shape, weights, values, 1e4))


MODELS = [(random_model, ROUND), (random_model, UNEVEN), (trained_like_model, ROUND), (trained_like_model, UNEVEN)]


def odd_blocks(block: int) -> list[np.ndarray]:
    """Empty, of one byte, of every length up to a block's; zeros, 0xff, all bytes, random ones."""
    draw = np.random.default_rng(2)
    lengths = [0, 1, 2, 3, 17, block - 1, block, *draw.integers(0, block, 20).tolist()]
    found = [SOURCE[7 * i : 7 * i + length] for i, length in enumerate(lengths)]
    found += [np.full(block, byte, np.uint8) for byte in (0, 32, 255)]
    return [*found, np.arange(block).astype(np.uint8), draw.integers(0, 256, block).astype(np.uint8)]


def assert_same(ours: Predictions, theirs: Predictions) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype == np.int64 and np.array_equal(one, other)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("model", "shape"), MODELS)
def test_blocks_of_all_lengths_have_the_hosts_integers_in_large_passes_and_small(
    model: type, shape: Shape, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, blocks = model(shape), odd_blocks(shape.block)
    expected = host.read_blocks(blocks)
    assert len(np.unique(expected.share_N)) > 100
    assert_same(DeviceLM(host, device).read_blocks(blocks), expected)
    monkeypatch.setattr(module, "PAIRS", 1000)
    monkeypatch.setattr(module, "QUERIES", 17)
    assert_same(DeviceLM(host, device, elements=300 * shape.width).read_blocks(blocks), expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("model", "shape"), MODELS)
def test_segments_of_one_byte_of_the_most_and_between_have_the_hosts_integers(
    model: type, shape: Shape, device: str
) -> None:
    host, draw = model(shape), np.random.default_rng(3)
    text = np.concatenate([*odd_blocks(shape.block), draw.integers(0, 256, 3 * LONGEST).astype(np.uint8)])
    everywhere, far = np.ones(len(text), bool), (np.arange(len(text)) + 1) % LONGEST == 0
    near = far | (draw.random(len(text)) < 0.2)
    far[-1] = near[-1] = True
    for elements in (module.ELEMENTS, 100 * shape.width):
        ours = DeviceLM(host, device, elements)
        for ends in (everywhere, far, near):
            assert_same(ours.read_segments(text, ends), host.read_segments(text, ends))
        assert_same(ours.read_segments(text[:0], near[:0]), host.read_segments(text[:0], near[:0]))


@pytest.mark.parametrize("device", DEVICES)
def test_more_keys_than_floats_can_sum_at_once_have_the_hosts_integers(device: str) -> None:
    host = random_model(LONG)
    host.tensors["0.value"][:] = 1e-4  # all values become 127 or -127, and nearly all keys count alike
    host.tensors["0.qk_norm"][:] = 1e-3
    blocks = [np.full(LONG.block, 97, np.uint8), SOURCE[: LONG.block]]
    assert_same(DeviceLM(host, device).read_blocks(blocks), host.read_blocks(blocks))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("options", [{}, {"context": "block"}, {"window": 12, "segment": 4}, {"mode": "fuzzy"}])
def test_documents_have_the_same_symbols_and_what_was_read_there_decodes_here(
    tmp_path: Path, options: dict[str, str], device: str
) -> None:
    shape = ROUND
    write_artifact(tmp_path, shape, random_model(shape).tensors, {"thresholds": {"4": [6000, 0], "8": [6900, 100]}})
    raws = [b"", b"\0" * 700, bytes(range(256)), SOURCE.tobytes(), SOURCE[: shape.block].tobytes(), b"\xff"]
    host, ours = (Neural.fit((), artifact=str(tmp_path), **options) for _ in range(2))
    vars(host)["reader"], vars(ours)["reader"] = host.lm, DeviceLM(ours.lm, device)
    expected, found = host.encode_many(raws), ours.encode_many(raws)
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one.symbols, other.symbols) and np.array_equal(one.anchors, other.anchors)
    if ours.lossless:
        assert ours.decode_many(found[:3], [len(raw) for raw in raws[:3]]) == raws[:3]


@pytest.mark.parametrize("device", DEVICES)
def test_a_device_that_computes_otherwise_is_refused(device: str) -> None:
    ours = DeviceLM(random_model(ROUND), device)
    ours.expect_same()
    ours.on["0.norm2"] = ours.on["0.norm2"] * 1.0001
    with pytest.raises(ByteproxyError, match=f"{VARIABLE}=cpu"):
        ours.expect_same()


def test_the_environment_chooses_and_a_device_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    host = random_model(ROUND)
    monkeypatch.setenv(VARIABLE, "cpu")
    assert for_encoding(host) is host
    monkeypatch.setenv(VARIABLE, "cuda:99")
    with pytest.raises(ByteproxyError, match="BYTEPROXY_DEVICE=cuda:99: not found here; there is cpu"):
        for_encoding(host)


@pytest.mark.gpu
def test_a_gpu_is_taken_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    found = for_encoding(random_model(ROUND))
    assert isinstance(found, DeviceLM) and found.device.type == "cuda" and torch.cuda.is_available()
