"""The oracle of in-context translation: laid out as trained, decoding worked out from one pass, and told apart."""

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from shards.errors import ByteproxyError
from shards.reader import ShardSet, Split
from tests.sets import build_set, standard_library
from tests.trainer.conftest import TINY
from trainer.__main__ import main
from trainer.ahead import Source
from trainer.attention import document_attention, prepare_documents
from trainer.config import Config, make_config
from trainer.evaluate import in_batches
from trainer.loader import Loader
from trainer.model import Model, table_rows
from trainer.optim import learning_rate, make_optimizers, set_learning_rate
from trainer.place import DONE
from trainer.specials import BOS, SPECIALS, closer, opener
from trainer.train import backward, train
from trainer.translate import LEAST, Segment, draw_segments, lay_out, read_raw_halves, translate

PAIRS = {"translation": 1.0, "rate_start": 0.5, "rate": 0.5, "anneal": 0.0, "views": "sentencepiece"}  # nothing else


@pytest.mark.parametrize("seed", [0, 1])
def test_a_segment_is_laid_out_as_the_planner_lays_out_a_pair(seed: int, tiny_set: ShardSet) -> None:
    val, views, ends = tiny_set.split("val"), [tiny_set.view("sentencepiece")], set()
    config = make_config({**TINY, **PAIRS, "seed": seed, "steps": 40})
    with Loader([Source(val)], views, config, prefetch=0) as loader:
        planner, state, seen = loader.planner, loader.planner.initial(), 0
        for batch, _ in loader:
            plan, state = planner.next(state)
            for first, second in itertools.pairwise(plan.pieces):
                if not (first.bos and first.view == 1 and second.view == 0 and not second.bos):
                    continue
                segment = Segment(second.ordinal, second.begin, second.end, first.begin, first.end, second.tail == DONE)
                found, _ = next(in_batches(val, ((piece, 0) for piece in lay_out(val, [segment], config.context, 1)),
                                           1, config.context, views))  # fmt: skip
                # what the last token predicts is the next document's, and the last of a row is a target alone
                inputs, targets = (min(segment.tokens - n, config.context - first.at) for n in (0, 1))
                for name, count in (("ids_RT", inputs), ("views_RT", inputs), ("positions_RT", inputs),
                                    ("targets_RT", targets), ("counted_RT", targets)):  # fmt: skip
                    expected = getattr(batch, name)[first.row, first.at : first.at + count]
                    assert (getattr(found, name)[0, :count] == expected).all(), name
                assert found.cu_seqlens[1] == min(segment.tokens, config.context)
                ends.add(segment.ends)
                seen += 1
    assert seen > 9 and ends == {True, False}


def test_segments_are_the_shortest_spans_between_anchors_and_both_halves_are_the_same_text(tiny_set: ShardSet) -> None:
    val, codec = tiny_set.split("val"), tiny_set.codec("sentencepiece")
    segments = draw_segments(val, "sentencepiece", 272, 10**6, 0)
    for segment in segments:
        raw, symbols = val.raw(segment.ordinal), val.symbols(segment.ordinal, "sentencepiece")
        text = raw[segment.begin : segment.end].tobytes()
        assert codec.decode(symbols[segment.first : segment.last]) == text and len(text) >= LEAST
        assert segment.ends == (segment.end == len(raw)) and segment.tokens <= 273
        anchors = val.anchors(segment.ordinal, "sentencepiece")[:, 0]
        assert not ((anchors >= segment.begin + LEAST) & (anchors < segment.end)).any()
    taken = sorted((segment.ordinal, segment.begin, segment.end) for segment in segments)
    assert all(a[0] != b[0] or a[2] <= b[1] for a, b in itertools.pairwise(taken))
    lengths = {ordinal: len(val.raw(ordinal)) for ordinal, _, _ in taken}
    assert sum(segment.bytes for segment in segments) > 0.95 * sum(lengths.values())
    assert {number for number in range(len(val)) if val.length("raw", number) >= LEAST} == set(lengths)


def test_segments_follow_from_the_seed_fewer_are_the_first_of_more_and_each_document_gives_one_first(
    tiny_set: ShardSet,
) -> None:
    val = tiny_set.split("val")
    many, few = (draw_segments(val, "sentencepiece", 272, count, 3) for count in (30, 7))
    assert few == many[:7] and len(many) == 30 and many != draw_segments(val, "sentencepiece", 272, 30, 4)
    documents = len({segment.ordinal for segment in many})
    assert len({segment.ordinal for segment in many[:documents]}) == documents > 4
    with pytest.raises(ByteproxyError, match=r"no segment of view sentencepiece with 32 bytes .* fits a row of 20"):
        draw_segments(val, "sentencepiece", 20, 5, 0)


def test_an_untrained_model_translates_nothing_and_the_compressed_half_tells_it_nothing(tiny_set: ShardSet) -> None:
    config = make_config({**TINY, **PAIRS})
    model, views = (
        Model(config, table_rows([tiny_set.view("sentencepiece").alphabet])),
        [tiny_set.view("sentencepiece")],
    )
    found = translate(model, tiny_set.split("val"), views, 1, 20, 0).figures()
    assert found["segments"] == 20 and found["exact_match"] == 0 and found["bytes_right"] < 0.1
    assert abs(found["bpb_given"] - found["bpb_alone"]) < 0.2 and 7.5 < found["bpb_alone"] < 9


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """A set whose held-out split is two short documents."""
    texts = [text[:700] for text in standard_library(12_000, 12)]
    return ShardSet.open(build_set(tmp_path_factory.mktemp("small"), texts[2:], texts[:2], "sentencepiece:vocab=400"))


@pytest.fixture(scope="module")
def overtrained(small: ShardSet) -> Model:
    """A model that saw the very documents it is asked for, as pairs, again and again."""
    config = make_config({**TINY, **PAIRS, "steps": 160, "width": 64, "mlp": 128, "warmup_steps": 5,
                          "optimizer": "muon"})  # fmt: skip
    views = [small.view("sentencepiece")]
    model = Model(config, table_rows([views[0].alphabet]))
    optimizers = make_optimizers(model, config)
    with Loader([Source(small.split("val"))], views, config, prefetch=0) as loader:
        for step, (batch, _) in enumerate(loader):
            set_learning_rate(optimizers, learning_rate(config, step))
            backward(model, batch, config.pass_rows)
            for optimizer in optimizers:
                optimizer.step()
            model.zero_grad(set_to_none=True)
    return model


def decode_step_by_step(model: Model, split: Split, segment: Segment) -> bytes:
    """Greedy, the plain way: the whole text is read anew for each byte."""
    symbols = split.symbols(segment.ordinal, "sentencepiece")[segment.first : segment.last].tolist()
    ids, written = [BOS, opener(1), *(SPECIALS + symbol for symbol in symbols), closer(1), opener(0)], b""
    views = [0, *[1] * (1 + len(symbols)), 0, 0]
    while len(written) < segment.bytes:
        length = len(ids)
        documents = prepare_documents(np.array([0, length], np.int32), 1, length, torch.device("cpu"), torch.float32)
        with torch.no_grad():
            x = model(torch.tensor([ids]), torch.tensor([views]), torch.arange(length)[None],
                      lambda _, q, k, v, documents=documents: document_attention(q, k, v, documents))  # fmt: skip
        byte = int(model.logits(x[:, -1], 0)[0, SPECIALS:].argmax())
        ids, views, written = [*ids, SPECIALS + byte], [*views, 0], written + bytes([byte])
    return written


def test_a_model_that_knows_the_documents_by_heart_translates_them(small: ShardSet, overtrained: Model) -> None:
    views = [small.view("sentencepiece")]
    found = translate(overtrained, small.split("val"), views, 1, 100, 0)
    assert found.figures()["exact_match"] > 0.7 and found.figures()["bytes_right"] > 0.8
    assert 4 * found.figures()["bpb_given"] < found.figures()["bpb_alone"] < 0.4  # alone, one has to guess which it is
    again = translate(overtrained, small.split("val"), views, 1, 100, 0)
    assert found.figures() == again.figures() and (found.given_S == again.given_S).all()


@pytest.mark.parametrize("spoilt", [0.0, 0.02])
def test_the_first_wrong_byte_is_the_one_that_greedy_decoding_would_write(
    spoilt: float, small: ShardSet, overtrained: Model
) -> None:
    """Also where a model is spoilt a little, so that it errs somewhere within a segment."""
    model = Model(overtrained.config, overtrained.tables)
    model.load_state_dict(overtrained.state_dict())
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        for parameter in model.parameters():
            parameter += spoilt * torch.randn(parameter.shape, generator=generator)
    split = small.split("val")
    segments = draw_segments(split, "sentencepiece", model.config.context, 5, 0)
    right_S, _ = read_raw_halves(model, split, segments, [small.view("sentencepiece")], 1)
    for segment, right in zip(segments, right_S.tolist(), strict=True):
        text = split.raw(segment.ordinal)[segment.begin : segment.end].tobytes()
        written = decode_step_by_step(model, split, segment)
        same = next((n for n, pair in enumerate(zip(text, written, strict=True)) if len(set(pair)) > 1), len(text))
        assert right == same
    lengths_S = np.array([segment.bytes for segment in segments])
    assert ((right_S > 0) & (right_S < lengths_S)).any() if spoilt else (right_S == lengths_S).any()


def test_the_verb_gives_the_same_figures_again_and_refuses_what_it_cannot_score(
    tiny_config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = dataclasses.replace(tiny_config, steps=3, views="gzip,sentencepiece", eval_every=0)
    for name, mode in (("run", "proxy"), ("bytes", "bytes"), ("tokens", "tokens")):
        train(dataclasses.replace(both, mode=mode, run=str(tmp_path / name)))
    capsys.readouterr()
    for _ in range(2):
        assert main(["translate", "--run", str(tmp_path / "run"), "--count", "9", "--json"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == second and first["view"] == "sentencepiece" and first["segments"] == 9 and first["step"] == 3
    assert main(["translate", "--run", str(tmp_path / "run"), "--count", "9"]) == 0
    assert "sentencepiece into raw bytes, 9 held-out segments" in capsys.readouterr().out
    for name, more, message in (
        ("bytes", [], r"bytes was trained in mode bytes, on raw bytes alone: .* mode proxy or parallel expected"),
        ("tokens", [], "was trained in mode tokens, on no raw bytes"),
        ("run", ["--view", "brotli"], "--view 'brotli' found, one of gzip, sentencepiece expected, which the run was"),
        ("run", ["--view", "gzip"], "view gzip has anchors at the ends of its documents alone"),
        ("run", ["--count", "0"], "--count 0: at least 1 expected"),
    ):
        with pytest.raises(ByteproxyError, match=message):
            main(["translate", "--run", str(tmp_path / name), *more])
