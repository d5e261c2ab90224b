"""The neural codec on an untrained LM, which is a lawful one: lossless, and the same symbols however it is computed."""

import hashlib
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from shards.codecs import Codec, Encoded, load_codec, parse_view
from shards.codecs.neural import codec as module
from shards.codecs.neural import kernels, lm
from shards.codecs.neural.codec import Neural, write_artifact
from shards.codecs.neural.lm import LM, Shape
from shards.codecs.neural.quantise import quantise, random_weights
from shards.codecs.windows.segments import fit_thresholds
from shards.errors import ByteproxyError
from tests.shards.codecs.test_lossless import ADVERSARIAL, assert_good

SHAPE = Shape(width=64, layers=2, heads=2, head_dim=32, mlp=96, context=96)
OPTIONS = ("", ",context=block", ",window=8", ",window=12,segment=4")
DRAW = np.random.default_rng(0)
ODD = {name: raw[:1500] for name, raw in ADVERSARIAL.items()} | {"random bytes": DRAW.bytes(3000)}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights whose predictions are sharp enough that windows hold some bytes; thresholds fitted on code."""
    values = np.full((SHAPE.layers, SHAPE.heads, SHAPE.head_dim), 4.0)
    model = LM(SHAPE, quantise(SHAPE, random_weights(SHAPE, 0, 4.0), values, 1e4))
    text = np.frombuffer(Path(__file__).read_bytes(), np.uint8)
    blocks = [text[at : at + SHAPE.block] for at in range(0, 4000, SHAPE.block)]
    entropies = [model.read_blocks([block]).entropy_N for block in blocks]
    thresholds = {str(mean): list(fit_thresholds(entropies, mean)) for mean in (4, 8)}
    folder = tmp_path_factory.mktemp("lm") / "artifact"
    write_artifact(folder, SHAPE, model.tensors, {"thresholds": thresholds})
    return folder


def made(artifact: Path, options: str = "") -> Neural:
    return Neural.fit((), **parse_view(f"neural:{artifact}{options}").options)


def digest(codec: Codec, raws: list[bytes], at_once: int = 64) -> str:
    state = hashlib.sha256()
    for first in range(0, len(raws), at_once):
        for encoded in codec.encode_many(raws[first : first + at_once]):
            for part in encoded:
                state.update(part.tobytes())
    return state.hexdigest()


@pytest.fixture(scope="module")
def documents(code: list[bytes]) -> list[bytes]:
    """Pieces of real code of all lengths, and what is odd."""
    return [raw[: 1 + 37 * i] for i, raw in enumerate(code[:24])] + list(ODD.values())


@pytest.mark.parametrize("options", OPTIONS)
def test_documents_of_all_kinds_come_back(artifact: Path, documents: list[bytes], options: str) -> None:
    codec = made(artifact, options)
    encoded = codec.encode_many(documents)
    assert codec.decode_many(encoded, [len(raw) for raw in documents]) == documents
    lengths = [max(map(len, documents)), sum(len(each.symbols) for each in encoded)]
    assert min(lengths) > 1000


@pytest.mark.parametrize("name", ["empty", "one line end", "every byte", "NUL", "cut-off UTF-8", "U+2581 within text"])
def test_symbols_alone_give_the_document_and_anchors_keep_their_promise(artifact: Path, name: str) -> None:
    assert_good(made(artifact), ADVERSARIAL[name])


def test_twenty_thousand_spaces_come_back(artifact: Path) -> None:
    codec, raw = made(artifact), b" " * 20_000
    encoded = codec.encode(raw)
    assert codec.decode_many([encoded], [len(raw)]) == [raw]


@pytest.mark.parametrize("options", OPTIONS[:2])
def test_a_long_document_is_read_in_pieces_with_the_same_symbols_and_anchors(
    artifact: Path, code: list[bytes], options: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec, raws = made(artifact, options), [b"", code[0][:4000], code[1][: 3 * SHAPE.block], b"x", code[2][:801]]
    expected = codec.encode_many(raws)
    held: list[int] = []
    encode = Neural._encode

    def watched(self: Neural, pieces: list[bytes]) -> list[Encoded]:
        held.append(sum(map(len, pieces)))
        return encode(self, pieces)

    monkeypatch.setattr(Neural, "_encode", watched)
    monkeypatch.setattr(module, "AT_ONCE", 800)
    for one, other in zip(codec.encode_many(raws), expected, strict=True):
        assert np.array_equal(one.symbols, other.symbols) and np.array_equal(one.anchors, other.anchors)
        assert one.symbols.dtype == other.symbols.dtype and one.anchors.dtype == other.anchors.dtype
    assert max(held) <= 800 and sum(held) == sum(map(len, raws))


def test_decoding_asks_for_no_position_that_the_model_has_not(
    artifact: Path, code: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    codec, raws = made(artifact), [code[0][: 2 * SHAPE.block], code[1][: SHAPE.block + 5]]
    positions: list[int] = []
    stream = LM.stream

    def watched(self: LM, ids: np.ndarray, position: np.ndarray, attend: lm.Attend) -> tuple[np.ndarray, np.ndarray]:
        positions.append(int(position.max()))
        return stream(self, ids, position, attend)

    encoded = codec.encode_many(raws)
    monkeypatch.setattr(LM, "stream", watched)
    assert codec.decode_many(encoded, [len(raw) for raw in raws]) == raws
    assert codec.decode(encoded[0].symbols) == raws[0]
    assert max(positions) == SHAPE.context - 1


def test_symbols_do_not_depend_on_the_batch_the_threads_or_the_process(
    artifact: Path, documents: list[bytes], tmp_path: Path
) -> None:
    codec = made(artifact)
    expected = digest(codec, documents)
    assert digest(codec, documents, 1) == expected == digest(codec, documents, 7)
    documents = documents[::3]
    expected = digest(codec, documents)
    paths = [tmp_path / str(i) for i in range(len(documents))]
    for path, raw in zip(paths, documents, strict=True):
        path.write_bytes(raw)
    script = """
import hashlib, sys, torch
from pathlib import Path
from shards.codecs import load_codec
import shards.codecs.neural.codec as module
from contextlib import nullcontext
module.one_thread = nullcontext
torch.set_num_threads(2)
codec, state = load_codec(Path(sys.argv[1])), hashlib.sha256()
for path in sys.argv[2:]:
    for part in codec.encode(Path(path).read_bytes()):
        state.update(part.tobytes())
assert not [m for m in sys.modules if m.split('.')[0] in ('trainer', 'pipeline', 'apache_beam')]
print(torch.get_num_threads(), state.hexdigest())
"""
    done = subprocess.run([sys.executable, "-c", script, artifact, *paths], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", expected]


def test_one_pass_over_all_positions_gives_the_integers_of_a_pass_byte_by_byte(artifact: Path) -> None:
    model = made(artifact).lm
    text = np.frombuffer(Path(__file__).read_bytes(), np.uint8)[: SHAPE.block]
    whole = model.read_blocks([text])
    cache = lm.Cache(SHAPE, 1, SHAPE.block)
    for n in range(len(text) - 1):
        at = np.array([n])
        product, scale = model.stream(text[n : n + 1].astype(np.int64), at + 2, model.cached(cache, at, at * 0, at))
        step = model.predict(product, scale, text[n + 1 : n + 2].astype(np.int64))
        assert [int(part[0]) for part in step] == [int(part[n + 1]) for part in whole]


def test_what_follows_a_byte_changes_nothing_before_it(artifact: Path) -> None:
    model, text = made(artifact).lm, np.frombuffer(Path(__file__).read_bytes(), np.uint8)
    other = text.copy()
    other[40:] = 0
    first, second = (model.read_blocks([each[: SHAPE.block]]) for each in (text, other))
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a[:40], b[:40])
    assert not np.array_equal(first.below_N[41:], second.below_N[41:])


def test_equal_segments_have_equal_symbols_wherever_they_stand(artifact: Path, code: list[bytes]) -> None:
    codec, known = made(artifact), {}
    text_N, _, ends_N = codec.predictions(code[:2])
    symbols = [encoded.symbols for encoded in codec.encode_many(code[:2])]
    bounds = [0, *(np.flatnonzero(ends_N) + 1).tolist()]
    alone = codec.lm.read_segments(text_N, ends_N)
    seen = 0
    for begin, end in itertools.pairwise(bounds):
        string = text_N[begin:end].tobytes()
        found = tuple(map(tuple, (part[begin:end].tolist() for part in tuple(alone)[:3])))
        seen += string in known
        assert known.setdefault(string, found) == found
    assert seen > 100 and sum(map(len, symbols)) > 100


def test_the_artifact_is_the_view_wherever_it_lies_and_its_digest_is_the_option(artifact: Path, tmp_path: Path) -> None:
    codec = made(artifact, ",window=12")
    codec.save(tmp_path / "copy")
    loaded = load_codec(tmp_path / "copy")
    assert loaded.settings == codec.settings and str(artifact) not in (tmp_path / "copy" / "codec.json").read_text()
    assert loaded.encode(b"x = 1\n" * 30).symbols.tolist() == codec.encode(b"x = 1\n" * 30).symbols.tolist()
    (tmp_path / "copy" / "lm.safetensors").write_bytes((artifact / "lm.safetensors").read_bytes()[:-1] + b"\x01")
    with pytest.raises(ByteproxyError, match="restore"):
        load_codec(tmp_path / "copy")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("neural", "python -m trainer neural"),
        ("neural:/nowhere", "'/nowhere' found, a folder"),
        ("neural:{},window=9", "found 9, expected 8, 12, 16"),
        ("neural:{},mode=fuzzy,context=block", "mode=fuzzy has context=segment"),
    ],
)
def test_mistakes_in_a_view_are_named(artifact: Path, spec: str, message: str) -> None:
    with pytest.raises(ByteproxyError, match=message):
        parse_view(spec.format(artifact))


def test_corrupt_symbols_are_refused_or_give_text_of_the_size_asked_for(artifact: Path, code: list[bytes]) -> None:
    codec = made(artifact)
    symbols = codec.encode(code[0][:300]).symbols
    refused = 0
    for at in range(0, len(symbols), 23):
        changed = symbols.copy()
        changed[at] ^= 0x155
        try:
            assert len(codec.decode(changed, 300)) == 300
        except ByteproxyError:
            refused += 1
    assert refused > 0
    with pytest.raises(ByteproxyError, match="corrupt"):
        codec.decode(symbols[:-1], 300)
    with pytest.raises(ByteproxyError, match="corrupt"):
        codec.decode(symbols.astype(np.int32), 300)


def test_fuzzy_takes_fewer_symbols_and_says_that_it_is_one_way(artifact: Path, code: list[bytes]) -> None:
    fuzzy, lossless = made(artifact, ",mode=fuzzy"), made(artifact)
    counts = [sum(len(each.symbols) for each in codec.encode_many(code[:1])) for codec in (fuzzy, lossless)]
    assert not fuzzy.lossless and counts[0] <= counts[1]
    with pytest.raises(ByteproxyError, match="one way"):
        fuzzy.decode(fuzzy.encode(b"abc").symbols)


def test_powers_of_two_are_near_the_true_ones() -> None:
    t = np.linspace(0, 20, 5001).astype(np.float32)
    found = np.array([kernels._power(each, np.float32(65535.0)) for each in t])
    assert np.abs(found - 65535 * 2.0 ** -t.astype(np.float64)).max() < 2


def test_integers_predict_as_floats_do() -> None:
    """Against the same weights in float64, all sums and exponentials by NumPy."""
    values = np.full((SHAPE.layers, SHAPE.heads, SHAPE.head_dim), 4.0)
    model = LM(SHAPE, quantise(SHAPE, random_weights(SHAPE), values, 1e4))
    text = np.frombuffer(Path(__file__).read_bytes(), np.uint8)[: SHAPE.block]
    found = model.read_blocks([text])
    ours = -np.log2(np.maximum(found.share_N, 0.5) / found.total_N)
    theirs = reference(model, text)
    assert abs(ours.mean() - theirs.mean()) < 0.03 * theirs.mean()
    assert np.corrcoef(ours, theirs)[0, 1] > 0.99


def reference(model: LM, text: np.ndarray) -> np.ndarray:
    """Bits of each byte by the dequantised weights, in float64."""
    t, s = model.tensors, model.shape
    matrix = {n: t[n] * t[f"{n}.scale"].astype(np.float64) for n in t if f"{n}.scale" in t and n != "embed"}

    def normed(x: np.ndarray, gain: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * gain

    ids = np.array([256, 257, *text[:-1]])
    x = t["embed"][ids] * t["embed.scale"][ids, None].astype(np.float64)
    cos, sin = (t[f"rotary.{n}"][: len(ids), None].astype(np.float64) for n in ("cos", "sin"))
    for layer in range(s.layers):
        q, k, v = (
            (normed(x, t[f"{layer}.norm1"]) @ matrix[f"{layer}.qkv"]).reshape(-1, 3, s.heads, s.head_dim).swapaxes(0, 1)
        )
        q, k = (normed(y, t[f"{layer}.qk_norm"][i]) for i, y in enumerate((q, k)))
        q, k = (
            np.concatenate((a * cos - b * sin, b * cos + a * sin), -1) for a, b in (np.split(y, 2, -1) for y in (q, k))
        )
        score = np.einsum("qhd,khd->hqk", q, k) * s.head_dim**-0.5
        score[:, ~np.tri(len(ids), dtype=bool)] = -np.inf
        weight = np.exp(score - score.max(-1, keepdims=True))
        out = np.einsum("hqk,khd->qhd", weight / weight.sum(-1, keepdims=True), v).reshape(len(ids), -1)
        x = x + out @ matrix[f"{layer}.out"]
        gate, up = np.split(normed(x, t[f"{layer}.norm2"]) @ matrix[f"{layer}.gate_up"], 2, -1)
        x = x + (gate / (1 + np.exp(-gate)) * up) @ matrix[f"{layer}.down"]
    logits = (normed(x, t["norm"]) @ matrix["head"])[1:]
    return np.log2(np.exp2(logits).sum(-1)) - logits[np.arange(len(text)), text]


def test_products_of_int8_that_saturate_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    lm.expect_exact_products("cpu")
    exact = torch._int_mm
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: exact(a, b).clamp(-(1 << 20), 1 << 20))
    with pytest.raises(ByteproxyError, match="inexactly"):
        lm.expect_exact_products("cpu")
