"""Held-out bits per byte equal those of a loop over documents, one row and one byte at a time."""

import gzip
import json
import math
from pathlib import Path

import brotli
import numpy as np
import pytest
import torch
import zstandard

from shards.reader import ShardSet
from trainer.config import Config
from trainer.evaluate import BASELINES_FILE, baselines, batches, cut_documents, score
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


def brute_force(model: Model, shard_set: ShardSet, context: int, limit: int = 0) -> tuple[float, int]:
    """Lay all documents out as one text of rows with Python lists; score each row's documents by themselves."""
    val, nats, count = shard_set.split("val"), 0.0, 0
    at = taken = 0
    for ordinal in range(len(val)):
        raw = val.raw(ordinal).tobytes()
        kept = raw[: limit - taken] if limit else raw
        tokens = [*(SPECIALS + byte for byte in kept), *([closer(0), EOS] if len(kept) == len(raw) else [])]
        count, taken = count + len(kept), taken + len(kept)
        done = 0
        while done < len(tokens):
            known = min(done, context // 2)  # seen again, not counted again
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


@pytest.mark.parametrize("context", [5, 17, 272])
def test_every_byte_and_every_end_is_scored_once(tiny_set: ShardSet, context: int) -> None:
    val = tiny_set.split("val")
    scored = np.zeros(320, np.int64)
    for batch in batches(val, 3, context):
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
    found = baselines(tiny_set, cache=tmp_path)
    assert found == pytest.approx({
        "gzip -9": 8 * sum(len(gzip.compress(raw, 9)) for raw in raws) / total,
        "zstd -19": 8 * sum(len(zstandard.ZstdCompressor(level=19).compress(raw)) for raw in raws) / total,
        "brotli -11": 8 * sum(len(brotli.compress(raw, quality=11)) for raw in raws) / total,
    })  # fmt: skip
    kept = json.loads((tmp_path / BASELINES_FILE).read_text())
    kept["bits_per_byte"]["gzip -9"] = 99.0
    (tmp_path / BASELINES_FILE).write_text(json.dumps(kept))
    assert baselines(tiny_set, cache=tmp_path)["gzip -9"] == 99.0
    assert baselines(tiny_set, limit=500, cache=tmp_path)["gzip -9"] != 99.0
