"""Sampling: the cache equals the full forward pass, only bytes come out, a seed repeats a text."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shards.errors import ByteproxyError
from trainer.attention import document_attention, prepare_documents
from trainer.config import Config
from trainer.model import Model
from trainer.sample import END, Display, Drawing, Sampler, draw, generate, generate_all, settle
from trainer.specials import BOS, EOS, SPECIALS, opener

TEXT = b"def f(x):\n    return x + 1\n" * 3


@pytest.fixture
def model(tiny_config: Config) -> Model:
    model = Model(tiny_config, [320])
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            if parameter.dim() == 2:
                parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(number))
    return model


def full_forward(model: Model, text: bytes) -> torch.Tensor:
    ids = torch.tensor([[BOS, opener(0), *(SPECIALS + byte for byte in text)]])
    context = ids.shape[1]
    documents = prepare_documents(np.array([0, context], np.int32), 1, context, torch.device("cpu"), torch.float32)
    with torch.no_grad():
        x = model(
            ids,
            torch.zeros_like(ids),
            torch.arange(context)[None],
            lambda _, q, k, v: document_attention(q, k, v, documents),
        )
        return model.logits(x[0], 0)


@pytest.mark.parametrize("read_at_once", [0, 1, 30, len(TEXT)])
def test_cache_equals_the_full_forward_pass(model: Model, read_at_once: int) -> None:
    expected = full_forward(model, TEXT)[read_at_once + 1 :]
    sampler = Sampler(model)
    found = [sampler.prefill(TEXT[:read_at_once])]
    found += [sampler.step(SPECIALS + byte) for byte in TEXT[read_at_once:]]
    torch.testing.assert_close(torch.stack(found), expected, atol=1e-4, rtol=1e-4)


def test_a_second_prefill_forgets_the_first(model: Model) -> None:
    sampler = Sampler(model)
    sampler.prefill(TEXT)
    torch.testing.assert_close(sampler.prefill(b"abc"), full_forward(model, b"abc")[-1], atol=1e-4, rtol=1e-4)


def test_text_longer_than_the_context_goes_on_from_its_last_half(model: Model) -> None:
    half = model.config.context // 2
    length = 3 * model.config.context
    found = bytes(generate(model, TEXT * 20, length, Drawing(temperature=0.0)))
    assert len(found) == length
    text = bytearray(TEXT * 20)
    begin = len(text) - half
    for byte in found:
        if len(text) - begin + 2 > model.config.context:
            begin = len(text) - half
        expected = full_forward(model, bytes(text[begin:]))[-1]
        assert draw(expected, Drawing(temperature=0.0), torch.Generator()) == SPECIALS + byte
        text.append(byte)


def test_only_bytes_and_the_end_can_be_drawn_however_likely_specials_are() -> None:
    logits = torch.full((320,), -5.0)
    logits[[0, BOS, EOS, opener(0), 8, 9]] = 100.0
    generator = torch.Generator().manual_seed(0)
    found = {draw(logits, Drawing(1.5, 0, 1.0), generator) for _ in range(2000)}
    assert all(token == END or token >= SPECIALS for token in found) and len(found) > 200 and END in found


def test_top_k_top_p_and_zero_temperature_narrow_the_choice() -> None:
    logits = torch.full((320,), -20.0)
    logits[SPECIALS : SPECIALS + 4] = torch.tensor([3.0, 2.0, 1.0, 0.0])
    generator = torch.Generator().manual_seed(0)

    def drawn(drawing: Drawing) -> set[int]:
        return {draw(logits, drawing, generator) - SPECIALS for _ in range(500)}

    assert drawn(Drawing(1.0, 0, 1.0)) == {0, 1, 2, 3}
    assert drawn(Drawing(1.0, 2, 1.0)) == {0, 1}
    assert drawn(Drawing(1.0, 0, 0.7)) == {0, 1}  # chances .64 .24 .09 .03
    assert drawn(Drawing(1.0, 0, 0.6)) == {0} == drawn(Drawing(0.0))
    with pytest.raises(ByteproxyError, match="top-p 0"):
        Drawing(top_p=0.0)


def test_a_seed_repeats_the_text_and_another_changes_it(model: Model) -> None:
    texts = [bytes(generate(model, b"def ", 60, Drawing(seed=seed))) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_generation_stops_where_the_document_is_closed(model: Model) -> None:
    with torch.no_grad():
        model.norm.weight.zero_()  # all logits equal: greedy takes the first that is allowed, the end
    assert bytes(generate(model, b"x", 50, Drawing(temperature=0.0))) == b""


PROMPTS = [b"", b"def f(", b"\xff\x00", TEXT, b"x" * 250, b"x" * 270, b"x" * 271]


@pytest.mark.parametrize("drawing", [Drawing(temperature=0.0), Drawing(seed=3), Drawing(seed=3, stop=(b"a", b"()"))])
def test_each_of_many_ragged_prompts_comes_out_as_it_does_alone(model: Model, drawing: Drawing) -> None:
    together: dict[int, bytes] = {}
    for number, data, _ in generate_all(model, PROMPTS, 30, drawing):
        together[number] = together.get(number, b"") + data
    assert [together[number] for number in range(len(PROMPTS))] == [
        bytes(generate(model, prompt, 30, drawing)) for prompt in PROMPTS
    ]


def test_a_rows_logits_are_the_same_bits_whatever_lies_in_the_others(model: Model) -> None:
    found = []
    for others in ([b"", b"", b""], [TEXT, b"abc", b"y" * 200]):
        sampler = Sampler(model, 4)
        logits = [sampler.prefill(b"def f(", 0)]
        for row, text in enumerate(others, 1):
            sampler.prefill(text, row)
        for byte in b"x):\n":
            logits.append(sampler.step_all([SPECIALS + byte, SPECIALS + 7, None, 70])[0])
        found.append(torch.stack(logits))
    assert torch.equal(*found)


def test_greedy_with_the_cache_is_greedy_without(model: Model) -> None:
    text = bytearray(TEXT)
    for _ in range(30):
        text.append(draw(full_forward(model, bytes(text))[-1], Drawing(temperature=0.0), torch.Generator()) - SPECIALS)
    assert bytes(generate(model, TEXT, 30, Drawing(temperature=0.0))) == text[len(TEXT) :]


@given(st.binary(max_size=30).map(lambda data: bytes(b % 3 for b in data)),
       st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4).map(bytes), max_size=3))  # fmt: skip
def test_a_text_ends_before_the_stop_that_is_first_complete_and_nothing_is_held_for_long(
    data: bytes, stops: list[bytes]
) -> None:
    shown, held, stopped = b"", b"", False
    for byte in data:
        settled, held, stopped = settle(held + bytes([byte]), stops)
        shown += settled
        assert len(held) < max([1, *map(len, stops)])
        if stopped:
            break
    ends = [(data.find(stop) + len(stop), -len(stop)) for stop in stops if stop in data]
    assert stopped == bool(ends)
    assert shown + held == (data[: sum(min(ends))] if ends else data)


def test_how_a_text_ended_is_told(model: Model) -> None:
    def ended(length: int, drawing: Drawing) -> tuple[bytes, str]:
        events = list(generate_all(model, [b"def "], length, drawing))
        return b"".join(data for _, data, _ in events), events[-1][2]

    text, how = ended(20, Drawing(temperature=0.0))
    assert (len(text), how) == (20, "length") and ended(0, Drawing()) == (b"", "length")
    assert ended(20, Drawing(temperature=0.0, stop=(text[5:8],))) == (text[: text.index(text[5:8])], "stop")
    with torch.no_grad():
        model.norm.weight.zero_()
    assert ended(20, Drawing(temperature=0.0)) == (b"", "document")


def test_display_joins_characters_cut_between_calls_and_lets_no_control_through() -> None:
    display = Display()
    shown = "".join(display.feed(bytes([byte])) for byte in "aé\t\n€\x1b[31m\x07".encode()) + display.feed(
        b"\xe2", True
    )
    assert shown == "aé\t\n€\ufffd[31m\ufffd\ufffd"
