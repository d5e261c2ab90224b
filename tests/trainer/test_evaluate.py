"""Held-out bits per byte equal those of a loop over documents, one row and one byte at a time."""

import gzip
import json
import lzma
import math
from collections.abc import Sequence
from pathlib import Path

import brotli
import numpy as np
import pytest
import torch
import zstandard

from shards.errors import ByteproxyError
from shards.reader import ShardSet
from trainer import baselines
from trainer.config import Config
from trainer.evaluate import batches, by_language, choose_documents, cut_documents, score
from trainer.model import Model, table_rows
from trainer.specials import BOS, EOS, SPECIALS, closer, opener


@pytest.fixture
def model(tiny_config: Config) -> Model:
    """With weights that make every part count."""
    model = Model(tiny_config, table_rows([512]))
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            if parameter.dim() == 2:
                parameter.normal_(0, 0.2, generator=torch.Generator().manual_seed(number))
    return model


def brute_force(
    model: Model, shard_set: ShardSet, context: int, limit: int = 0, chosen: Sequence[int] | None = None,
    overlap: int = -1,
) -> tuple[float, int]:  # fmt: skip
    """Lay all documents out as one text of rows with Python lists; score each row's documents by themselves."""
    val, nats, count = shard_set.split("val"), 0.0, 0
    at = taken = 0
    overlap = context // 2 if overlap < 0 else overlap
    for ordinal in range(len(val)) if chosen is None else chosen:
        raw = val.raw(ordinal).tobytes()
        kept = raw[: limit - taken] if limit else raw
        tokens = [*(SPECIALS + byte for byte in kept), *([closer(0), EOS] if len(kept) == len(raw) else [])]
        count, taken = count + len(kept), taken + len(kept)
        done = 0
        while done < len(tokens):
            known = min(done, overlap)  # seen again, not counted again
            if context + 1 - at < 4 + known:
                at = 0
            rest = tokens[done - known :]
            take = min(context + 1 - at - 2, len(rest))
            if take < len(rest) <= take + 1:  # closer and eos stay together
                take -= 1
            row, done = [BOS, opener(0), *rest[:take]], done - known + take
            nats += alone(model, row, known)
            at += len(row)
        if limit and taken == limit:
            break
    return nats, count


def alone(model: Model, row: list[int], known: int) -> float:
    """Nats of the bytes and closer of one stretch but for its first `known`, by plain causal attention."""

    def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(
            1, 2
        )

    ids = torch.tensor([row])
    with torch.no_grad():
        x = model(ids[:, :-1], torch.zeros_like(ids[:, :-1]), torch.arange(len(row) - 1)[None], attend)
        logits = model.logits(x[0], 0).log_softmax(-1).double()
    wanted = [(at, token) for at, token in enumerate(row[1:]) if token >= SPECIALS or token == closer(0)][known:]
    return -sum(float(logits[at, token]) for at, token in wanted)


@pytest.mark.parametrize(("context", "rows", "limit"), [(272, 4, 0), (100, 7, 0), (272, 4, 5000), (50, 3, 777)])
def test_score_equals_a_loop_over_documents(
    model: Model, tiny_set: ShardSet, context: int, rows: int, limit: int
) -> None:
    found = score(model, tiny_set.split("val"), rows, context, limit)
    nats, count = brute_force(model, tiny_set, context, limit)
    assert found.bytes == count == (limit or sum(len(tiny_set.split("val").raw(i)) for i in range(found.documents)))
    assert found.nats == pytest.approx(nats, rel=1e-5)
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / count, rel=1e-5)
    assert found.bytes_D.dtype == np.int64 and found.nats_D.dtype == np.float64


@pytest.mark.parametrize("overlap", [0, 37, 200])
def test_any_overlap_of_windows_is_that_of_the_loop(model: Model, tiny_set: ShardSet, overlap: int) -> None:
    chosen = [2, 5, 6]
    found = score(model, tiny_set.split("val"), 4, 272, 0, chosen, overlap)
    nats, count = brute_force(model, tiny_set, 272, 0, chosen, overlap)
    assert found.bytes == count and found.nats == pytest.approx(nats, rel=1e-5)


def test_an_overlap_that_leaves_no_room_is_refused(model: Model, tiny_set: ShardSet) -> None:
    with pytest.raises(ByteproxyError, match="--overlap 270: at most 269 expected, in rows of 272"):
        score(model, tiny_set.split("val"), 4, 272, overlap=270)


def test_a_documents_nats_are_those_of_it_alone(model: Model, tiny_set: ShardSet) -> None:
    val = tiny_set.split("val")
    found = score(model, val, 3, 272)
    assert found.documents == len(val)
    for ordinal in range(len(val)):
        raw = val.raw(ordinal).tobytes()
        if len(raw) < 200:  # in one row, wherever it lies
            row = [BOS, opener(0), *(SPECIALS + byte for byte in raw), closer(0), EOS]
            assert found.nats_D[ordinal] == pytest.approx(alone(model, row, 0), rel=1e-4)
        assert found.bytes_D[ordinal] == len(raw)


def test_a_view_is_scored_by_its_own_head_in_bits_per_raw_byte(model: Model, tiny_set: ShardSet) -> None:
    val, views = tiny_set.split("val"), [tiny_set.view("sentencepiece")]
    found = score(model, val, 3, 272, views=views, stream=1)
    assert found.documents == len(val)
    texts = [val.raw(i).tobytes() for i in range(len(val))]
    assert found.bytes_D.tolist() == [len(text) for text in texts]
    seen = 0
    for ordinal in range(len(val)):
        symbols = val.symbols(ordinal, "sentencepiece").tolist()
        if len(symbols) < 100:
            row = [BOS, opener(1), *(SPECIALS + symbol for symbol in symbols), closer(1), EOS]
            views_T = torch.tensor([0, *[1] * (len(symbols) + 1), 0])

            def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
                q, k, v = (x.transpose(1, 2) for x in (q, k, v))
                attention = torch.nn.functional.scaled_dot_product_attention
                return attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)

            ids = torch.tensor([row[:-1]])
            with torch.no_grad():
                x = model(ids, views_T[None], torch.arange(len(row) - 1)[None], attend)[0]
                logits = model.logits(x[1:-1], 1).log_softmax(-1).double()
            targets = torch.tensor(row[2:-1])
            expected = -float(logits.gather(1, targets[:, None]).sum())
            assert found.nats_D[ordinal] == pytest.approx(expected, rel=1e-4)
            seen += 1
    assert seen
    assert found.bits_per_byte == found.nats / math.log(2) / sum(map(len, texts))


def test_documents_are_chosen_by_share_by_ids_or_by_a_file_of_ids(tiny_set: ShardSet, tmp_path: Path) -> None:
    val = tiny_set.split("val")
    some, more = choose_documents(val, "0.3"), choose_documents(val, "0.7")
    assert some == choose_documents(val, "0.3") and some and more and set(some) < set(more)
    assert choose_documents(val, "") is None and choose_documents(val, "1") == list(range(len(val)))
    texts = [val.id(i).hex() for i in (4, 1)]
    (tmp_path / "ids").write_text("\n".join(texts))
    assert choose_documents(val, ",".join(texts)) == choose_documents(val, str(tmp_path / "ids")) == [1, 4]
    with pytest.raises(ByteproxyError, match=f"split val has no document {'ab' * 16}"):
        choose_documents(val, "ab" * 16)
    with pytest.raises(ByteproxyError, match=r"--documents 1\.5: a share over 0 and up to 1"):
        choose_documents(val, "1.5")


def test_languages_add_up_to_the_whole(model: Model, tiny_set: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    val = tiny_set.split("val")
    monkeypatch.setattr(val, "meta", lambda i: {"language": "python" if i % 2 else None})
    found, (sizes_D, total) = score(model, val, 3, 272), baselines.sizes(val)
    rows = by_language(val, found, sizes_D)
    assert set(rows) == {"python", "unknown"} and sum(row["documents"] for row in rows.values()) == len(val)
    assert sum(row["bytes"] for row in rows.values()) == total
    nats = sum(row["raw_bpb"] * row["bytes"] for row in rows.values()) * math.log(2)
    assert nats == pytest.approx(found.nats)
    whole = baselines.rates(sizes_D, total)
    for name, figure in whole.items():
        assert sum(r["baselines"][name] * r["bytes"] for r in rows.values()) / total == pytest.approx(figure)


@pytest.mark.parametrize("context", [5, 17, 272])
def test_every_byte_and_every_end_is_scored_once(tiny_set: ShardSet, context: int) -> None:
    val = tiny_set.split("val")
    scored = np.zeros(320, np.int64)
    for batch, _ in batches(val, 3, context):
        np.add.at(scored, batch.targets_RT[batch.counted_RT], 1)
    text = b"".join(val.raw(i).tobytes() for i in range(len(val)))
    np.testing.assert_array_equal(scored[SPECIALS:], np.bincount(np.frombuffer(text, np.uint8), minlength=256))
    assert scored[closer(0)] == scored[EOS] == len(val) and scored[:SPECIALS].sum() == 2 * len(val)


def test_a_limit_reads_a_prefix_of_the_documents(tiny_set: ShardSet) -> None:
    whole = [piece for piece, _ in cut_documents(tiny_set.split("val"), 272)]
    for limit in (1, 271, 5000, 10**9):
        pieces = [piece for piece, _ in cut_documents(tiny_set.split("val"), 272, limit)]
        total = sum(piece.text for piece in whole)
        assert sum(piece.text for piece in pieces) == min(limit, total)
        assert [piece.ordinal for piece in pieces] == [piece.ordinal for piece in whole][: len(pieces)]


def test_baselines_compress_each_document_by_itself_and_are_remembered(tiny_set: ShardSet, tmp_path: Path) -> None:
    val = tiny_set.split("val")
    raws = [val.raw(i).tobytes() for i in range(len(val))]
    total = sum(map(len, raws))
    found = baselines.bits_per_byte(tiny_set, cache=tmp_path)
    assert found == pytest.approx({
        "gzip -9": 8 * sum(len(gzip.compress(raw, 9)) for raw in raws) / total,
        "zstd -19": 8 * sum(len(zstandard.ZstdCompressor(level=19).compress(raw)) for raw in raws) / total,
        "brotli -11": 8 * sum(len(brotli.compress(raw, quality=11)) for raw in raws) / total,
        "xz -9e": 8 * sum(len(lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME)) for raw in raws) / total,
    })  # fmt: skip
    kept = json.loads((tmp_path / baselines.FILE).read_text())
    kept["bits_per_byte"]["gzip -9"] = 99.0
    (tmp_path / baselines.FILE).write_text(json.dumps(kept))
    assert baselines.bits_per_byte(tiny_set, cache=tmp_path)["gzip -9"] == 99.0
    assert baselines.bits_per_byte(tiny_set, limit=500, cache=tmp_path)["gzip -9"] != 99.0
