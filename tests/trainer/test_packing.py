"""The whole model over packed rows: loss and gradients are those of the same documents one by one, alone in a row."""

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from shards.reader import ShardSet
from tests.sets import build_set, standard_library
from tests.trainer.loading import loader_of
from trainer.batch import Batch
from trainer.config import Config
from trainer.feed import rows_of
from trainer.loss import nats_by_view
from trainer.model import Model, table_rows
from trainer.specials import BOS, SPECIALS
from trainer.train import backward

CASES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "bytes": ({"mode": "bytes"}, {"raw"}),
    "mixed": ({"translation": 0.0, "rate": 0.6}, {"raw", "compressed"}),
    "pairs": ({"translation": 1.0, "anneal": 0.0, "context": 512}, {"pair"}),
}


@pytest.fixture(scope="module")
def short_set(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Documents of 20 to 160 bytes: several fit into a row, as pairs too."""
    text = b"".join(standard_library(12_000, 4))
    texts, rng = [], np.random.default_rng(0)
    while len(text) > 160:
        length = int(rng.integers(20, 160))
        texts, text = [*texts, text[:length]], text[length:]
    folder = tmp_path_factory.mktemp("short")
    return ShardSet.open(build_set(folder, texts[4:], texts[:4], "sentencepiece:vocab=512"))


def first_batch(shard_set: ShardSet, config: Config) -> Batch:
    with loader_of(shard_set, config) as loader:
        return next(iter(loader))[0]


def begun(model: Model) -> Model:
    """Every block does something: at the start it is the identity, which would hide what documents see of others."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("layernorm.weight"):
                parameter.uniform_(0.5, 1.5, generator=generator)
            elif name.startswith("layers") and parameter.dim() == 2:
                parameter.normal_(0, 0.1, generator=generator)
    return model


def stretches(batch: Batch) -> list[tuple[int, int, int]]:
    """(row, begin, end) of the documents, by where a `bos` stands: not by the boundaries that attention is given."""
    found = []
    for row, begins in enumerate((batch.ids_RT == BOS) & (batch.views_RT == 0)):
        assert begins[0]
        edges = [*np.flatnonzero(begins).tolist(), len(begins)]
        found += [(row, begin, end) for begin, end in itertools.pairwise(edges)]
    return found


def causal(layer: int, q_RTHD: Tensor, k_RTGD: Tensor, v_RTGD: Tensor) -> Tensor:
    q_RHTD, k_RGTD, v_RGTD = (x.transpose(1, 2) for x in (q_RTHD, k_RTGD, v_RTGD))
    return nn.functional.scaled_dot_product_attention(
        q_RHTD, k_RGTD, v_RGTD, is_causal=True, enable_gqa=True
    ).transpose(1, 2)


def alone(model: Model, batch: Batch, place: tuple[int, int, int]) -> Tensor:
    """Nats of one document: no mask but the causal one, positions from 0, one plain cross-entropy a view."""
    row, begin, end = place
    ids_T, views_T, targets_T, counted_T = (
        torch.from_numpy(array[row, begin:end]).long()
        for array in (batch.ids_RT, batch.views_RT, batch.targets_RT, batch.counted_RT.view(np.uint8))
    )
    x_TW = model(ids_T[None], views_T[None], torch.arange(end - begin)[None], causal)[0]
    nats = torch.zeros(())
    for view in range(len(model.tables)):
        mine_T = (views_T == view) & (counted_T == 1)
        nats = nats + nn.functional.cross_entropy(model.logits(x_TW[mine_T], view), targets_T[mine_T], reduction="sum")
    return nats


@pytest.mark.parametrize("case", CASES)
def test_packed_documents_train_as_if_each_were_alone(case: str, short_set: ShardSet, tiny_config: Config) -> None:
    changes, kinds = CASES[case]
    config = dataclasses.replace(tiny_config, **changes)
    batch = first_batch(short_set, config)
    places = stretches(batch)
    assert len(places) >= 2 * config.batch_rows and {kind_of(batch, place) for place in places} >= kinds
    model = begun(Model(config, table_rows([512] if config.mode != "bytes" else [])))
    packed = backward(model, batch, config.batch_rows).sum()
    gradients = {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
    }
    model.zero_grad()
    total = 0.0
    for place in places:
        nats = alone(model, batch, place)
        (nats / batch.symbols.sum()).backward()
        total += nats.item()

    assert float(packed) == pytest.approx(total, rel=1e-5)
    assert gradients.keys() == {name for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        atol = 1e-5 * float(parameter.grad.abs().max())  # float32 sums in another order
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=atol)


def kind_of(batch: Batch, place: tuple[int, int, int]) -> str:
    """By the views of the bytes and symbols that are trained on."""
    row, begin, end = place
    inside = batch.counted_RT[row, begin:end] & (batch.ids_RT[row, begin:end] >= SPECIALS)
    shown = set(np.unique(batch.views_RT[row, begin:end][inside]).tolist())
    return "pair" if len(shown) > 1 else "compressed" if 1 in shown else "raw"


class Kept(Model):
    """Keeps the embedded inputs of its last pass, and their gradient."""

    def embed(self, *arguments: Any) -> Tensor:
        self.embedded = super().embed(*arguments)
        self.embedded.retain_grad()
        return self.embedded


def test_what_a_document_holds_reaches_no_output_of_its_row_neighbours(
    short_set: ShardSet, tiny_config: Config
) -> None:
    config = dataclasses.replace(tiny_config, **CASES["pairs"][0])
    batch, model = first_batch(short_set, config), begun(Kept(config, table_rows([512])))
    rows = rows_of(batch, model, 0, config.batch_rows)
    row, begin, end = next(place for place in stretches(batch) if place[1] > 0 and place[2] < config.context)
    mine_RT = torch.zeros(batch.ids_RT.shape, dtype=torch.bool)
    mine_RT[row, begin:end] = True
    changed_RT = torch.where(mine_RT, (rows.ids_RT + 7) % 320, rows.ids_RT)
    outputs = [model(ids_RT, *rows[1:4]) for ids_RT in (changed_RT, rows.ids_RT)]
    assert torch.equal(outputs[0][~mine_RT], outputs[1][~mine_RT])
    assert (outputs[0][mine_RT] != outputs[1][mine_RT]).any(-1).all()

    others_N = rows.counted_N & ~mine_RT.flatten()
    nats_by_view(model, outputs[1].flatten(0, 1), rows.views_N, rows.targets_N, others_N).sum().backward()
    gradient_RTW = model.embedded.grad
    assert gradient_RTW is not None and not gradient_RTW[mine_RT].any()
    assert gradient_RTW[row][~mine_RT[row]].any()  # in the same row
