"""An exported run in `transformers`: the same logits, bits per byte and greedy text; a tokenizer that never errs."""

import json
import math
import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from shards.errors import ByteproxyError
from shards.reader import ShardSet
from tests.trainer.conftest import TINY
from trainer import export as exporting
from trainer.__main__ import main
from trainer.config import make_config
from trainer.evaluate import cut_documents, score
from trainer.export import export
from trainer.load import load_model
from trainer.model import Model
from trainer.place import DONE
from trainer.sample import Drawing, Sampler, generate
from trainer.specials import BOS, EOS, SPECIALS, closer, opener
from trainer.train import train

os.environ["HF_HUB_OFFLINE"] = "1"
START = [BOS, opener(0)]
PROMPTS = [b"def f(", b"", "naïve <raw> </raw><eos> e\u0301 \u2581\r\n\x00".encode(), b"import os\n" * 20]


@pytest.fixture(scope="module")
def run(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained for real, some steps, on raw bytes and a view."""
    folder = tmp_path_factory.mktemp("exported") / "run"
    train(make_config({**TINY, "shards": str(tiny_folder), "run": str(folder)}))
    return folder


@pytest.fixture(scope="module")
def out(run: Path) -> Path:
    export(run, run.with_name("out"))
    return run.with_name("out")


@pytest.fixture(scope="module")
def ours(run: Path) -> Model:
    return load_model(run, dtype="float32")[0]


@pytest.fixture(scope="module")
def theirs(out: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(out, trust_remote_code=False).eval()


@pytest.fixture(scope="module")
def tokenizer(out: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(out, trust_remote_code=False)


def ids_of(data: bytes) -> list[int]:
    return [*START, *(SPECIALS + byte for byte in data)]


def test_transformers_gives_our_logits_at_every_position(ours: Model, theirs: Any) -> None:
    from transformers import Qwen3ForCausalLM

    assert type(theirs) is Qwen3ForCausalLM and theirs.dtype == torch.float32
    assert theirs.get_input_embeddings().weight.shape[0] == theirs.lm_head.weight.shape[0] == 320
    for prompt in PROMPTS:
        sampler = Sampler(ours)
        expected = [sampler.prefill(b""), *(sampler.step(SPECIALS + byte) for byte in prompt)]
        with torch.no_grad():
            found = theirs(torch.tensor([ids_of(prompt)])).logits[0, 1:]
        torch.testing.assert_close(found, torch.stack(expected), atol=1e-4, rtol=0)


def test_greedy_generation_is_ours(ours: Model, theirs: Any) -> None:
    for prompt in PROMPTS:
        ids = torch.tensor([ids_of(prompt)])
        mask = torch.ones_like(ids)
        found = theirs.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=50)[0, ids.shape[1] :]
        text = bytes(generate(ours, prompt, 50, Drawing(temperature=0.0)))
        ended = [closer(0)] if len(text) < 50 else []
        assert found.tolist() == [*(SPECIALS + byte for byte in text), *ended]


def test_generation_ends_at_the_closer_and_draws_no_other_special(theirs: Any) -> None:
    assert theirs.generation_config.eos_token_id == [closer(0), EOS]
    assert sorted(theirs.generation_config.suppress_tokens) == [i for i in range(SPECIALS) if i != closer(0)]


def test_bits_per_byte_of_the_stripped_model_on_held_out_documents_are_ours(
    ours: Model, theirs: Any, tiny_set: ShardSet
) -> None:
    val, context = tiny_set.split("val"), ours.config.context
    nats, count = 0.0, 0
    for piece, known in cut_documents(val, context):
        raw = val.raw(piece.ordinal)[piece.begin : piece.end].tobytes()
        targets = ids_of(raw) + ([closer(0)] if piece.tail == DONE else [])
        with torch.no_grad():
            logits = theirs(torch.tensor([targets[:-1]])).logits[0].double().log_softmax(-1)
        chosen = logits[range(len(targets) - 1), targets[1:]]
        nats, count = nats - float(chosen[1 + known :].sum()), count + piece.text
    expected = score(ours, val, 4, context)
    assert count == expected.bytes > 10_000
    assert nats / math.log(2) / count == pytest.approx(expected.bits_per_byte, abs=1e-5)


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_becomes_its_bytes_behind_bos_and_raw_and_comes_back(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text)["input_ids"]
    assert ids == ids_of(text.encode())
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer.decode(ids) == "<bos><raw>" + text


@given(st.lists(st.sampled_from(["<raw>", "</raw>", "<eos>", "<bos>", "<pad>", "<special_7>", "x", " ", "\n"])))
@settings(max_examples=100, deadline=None)
def test_what_looks_like_a_special_in_a_prompt_stays_bytes(tokenizer: Any, out: Path, parts: list[str]) -> None:
    from tokenizers import Tokenizer

    text = "".join(parts)
    assert tokenizer(text)["input_ids"] == ids_of(text.encode())
    assert Tokenizer.from_file(str(out / "tokenizer.json")).encode(text).ids == ids_of(text.encode())


def test_specials_have_their_ids_and_skip_special_tokens_leaves_them_out(tokenizer: Any) -> None:
    assert len(tokenizer) == 320
    assert tokenizer.convert_tokens_to_ids(["<pad>", "<bos>", "<eos>", "<raw>", "</raw>"]) == [0, 1, 2, 3, 4]
    assert tokenizer.decode([*ids_of(b"ab"), closer(0), EOS], skip_special_tokens=True) == "ab"
    assert tokenizer.decode(ids_of(b"a\xff")[2:]) == "a\ufffd"  # no text has that byte: who needs it reads the ids


def test_a_padded_batch_generates_what_its_prompts_do_alone(tokenizer: Any, theirs: Any) -> None:
    prompts = ["def f(", "import os\nimport sys\n"]
    batch = tokenizer(prompts, padding=True, return_tensors="pt")
    together = theirs.generate(**batch, do_sample=False, max_new_tokens=20)
    for prompt, found in zip(prompts, together, strict=True):
        alone = theirs.generate(torch.tensor([ids_of(prompt.encode())]), do_sample=False, max_new_tokens=20)[0]
        assert found[-20:].tolist() == alone[-20:].tolist()


def test_nothing_of_the_compressed_view_is_left_and_sizes_are_told(
    run: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = load_file(out / "model.safetensors")
    kept, dropped = sum(t.numel() for t in tensors.values()), 2 * (64 + 512) * 32
    before = load_file(run / "checkpoints" / "step_00000012" / "model.safetensors")
    assert sum(t.numel() for t in before.values()) == kept + dropped
    assert main(["export", str(run), "--out", str(out)]) == 0  # again: it is there, whole
    shown = capsys.readouterr().out
    assert f"{kept + dropped:,} parameters" in shown and f"{kept:,} parameters" in shown
    assert "stripped: embedding and head of sentencepiece, 36,864 parameters" in shown


def test_the_card_has_the_figures_of_the_run_with_their_origin(run: Path, out: Path) -> None:
    text, result = (out / "README.md").read_text(), json.loads((run / "result.json").read_text())
    assert f"| bits per byte, raw | {result['raw_bpb']:.3f} on {result['val_documents']} held-out" in text
    assert f"| trained on, sentencepiece | {result['symbols']['sentencepiece']:,} symbols" in text
    assert f"| gzip -9, bits per byte | {result['baselines']['gzip -9']:.3f} | result.json |" in text
    assert not [line for line in text.splitlines() if "{" in line or "}" in line]


def test_the_code_in_the_card_runs(out: Path) -> None:
    code = (out / "README.md").read_text().split("```python\n")[1].split("```")[0]
    run = subprocess.run([sys.executable, "-c", code], cwd=out, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0 and run.stdout.startswith("def main("), run.stderr[-2000:]


def test_a_checkpoint_of_mid_run_has_the_figure_of_its_step_or_none(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "8", step=8)
    assert "| bits per byte, raw | not measured at this step |" in (tmp_path / "8" / "README.md").read_text()


def test_bfloat16_is_half_as_large_and_loads_as_such(run: Path, out: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    origin = export(run, tmp_path / "half", dtype="bfloat16")
    full = json.loads((out / "export.json").read_text())
    assert origin["after"]["bytes"] < 0.6 * full["after"]["bytes"]
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "half").dtype == torch.bfloat16
    with pytest.raises(ByteproxyError, match="--dtype: 'int8' found, one of float32, bfloat16 expected"):
        export(run, tmp_path / "no", dtype="int8")


def test_an_export_is_never_written_over_something_else(run: Path, out: Path, tmp_path: Path) -> None:
    for name, content in (("mine", b"x"), ("export.json", b"{}")):
        (tmp_path / "there").mkdir(exist_ok=True)
        (tmp_path / "there" / name).write_bytes(content)
        with pytest.raises(ByteproxyError, match="holds something else already"):
            export(run, tmp_path / "there")
    shutil.copytree(out, tmp_path / "damaged")
    (tmp_path / "damaged" / "config.json").write_text("{}")
    with pytest.raises(ByteproxyError, match="holds something else already"):
        export(run, tmp_path / "damaged")
    with pytest.raises(ByteproxyError, match="holds something else already"):
        export(run, out, step=8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged", "there"]


def test_a_failed_export_leaves_nothing_and_a_killed_one_is_no_hindrance(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(exporting, "card", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export(run, tmp_path / "o")
    assert not list(tmp_path.iterdir())
    child = multiprocessing.get_context("fork").Process(target=_killed, args=(run, tmp_path / "o"))
    child.start()
    child.join(60)
    assert child.exitcode == 9 and [path.name for path in tmp_path.iterdir()] == [".tmp-export-o"]
    export(run, tmp_path / "o")
    assert [path.name for path in tmp_path.iterdir()] == ["o"]


def _killed(run: Path, out: Path) -> None:
    exporting.card = lambda *_: os._exit(9)
    export(run, out)


def test_a_setting_that_qwen3_cannot_express_is_refused_by_its_name(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Model.logits

    def scaled(self: Model, x_NW: torch.Tensor, view: int) -> torch.Tensor:
        """As an experiment might: another temperature of the head, by a setting."""
        return plain(self, x_NW, view) * (2.0 if self.config.anneal == 0.3 else 1.0)

    monkeypatch.setattr(Model, "logits", scaled)
    with pytest.raises(ByteproxyError, match=r"^--anneal 0\.3: Qwen3 cannot express that \(as Qwen3 its logits"):
        export(run, tmp_path / "o")
    assert not list(tmp_path.iterdir())


def test_a_tensor_that_qwen3_has_no_place_for_is_refused(ours: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = Model(ours.config, ours.tables)
    odd.register_parameter("byte_head", torch.nn.Parameter(torch.zeros(3)))
    with pytest.raises(ByteproxyError, match="differs in 1 tensors, first byte_head"):
        exporting.strip(odd)
