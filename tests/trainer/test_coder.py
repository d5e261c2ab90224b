"""Compressed files come back bit for bit, and what cannot come back is refused by name."""

import math
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from shards.errors import ByteproxyError
from tests.sets import standard_library
from trainer import coder, container
from trainer.__main__ import main
from trainer.config import Config, make_config
from trainer.model import Model
from trainer.order2 import FLOOR, TOTAL, Experts
from trainer.train import train

ROOT = Path(__file__).parents[2]
ENGLISH = (
    b"The quick brown fox jumps over the lazy dog while the rain in the south keeps falling on the old stone bridge. "
    b"Nobody who lives near the river remembers a wetter autumn than this one, and the ferryman, who ought to know, "
    b"says that the water will be over the lower road before the week is out. "
)
POLISH = "Pod starym dębem na rynku siedzą dziadkowie i rozmawiają o pogodzie, o żniwach i o swoich wnukach. "


@pytest.fixture(scope="module")
def run(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few steps on Python source."""
    from tests.trainer.conftest import TINY

    folder = tmp_path_factory.mktemp("run") / "tiny"
    train(make_config({**TINY, "shards": str(tiny_folder), "run": str(folder), "steps": 60, "eval_every": 0}))
    return folder


@pytest.fixture(scope="module")
def model(run: Path) -> Model:
    from trainer.load import load_model

    return load_model(run)[0]


def round_trip(model: Model, text: bytes, lanes: int) -> tuple[int, np.ndarray]:
    """Bytes of words, and the experts' bits, of a text that came back."""
    words, nats = coder.encode(model, text, lanes)
    assert coder.decode(model, words, len(text), lanes) == text
    return 4 * len(words), nats / math.log(2)


CODE = b"".join(standard_library(12_000, 8))
SHUFFLED = list(standard_library(9_000, 80)[40:])


@pytest.mark.parametrize(("length", "lanes"), [(0, 1), (1, 1), (5, 4), (9, 4), (700, 1), (3000, 7), (6000, 16)])
def test_any_length_in_any_number_of_lanes_comes_back(model: Model, length: int, lanes: int) -> None:
    """700 bytes in a lane of a context of 272: its last half is read again, and again."""
    round_trip(model, CODE[:length], lanes)


@pytest.mark.parametrize("kind", ["code", "random", "english", "polish", "zeros", "all bytes"])
def test_both_experts_together_are_never_much_worse_than_the_better_one(model: Model, kind: str) -> None:
    text = {
        "code": SHUFFLED[0] + SHUFFLED[1],
        "random": random.Random(0).randbytes(12_000),
        "english": ENGLISH * 40,
        "polish": POLISH.encode() * 60,
        "zeros": bytes(9_000),
        "all bytes": bytes(range(256)) * 40,
    }[kind][:12_000]
    size, (alone, order2, both) = round_trip(model, text, 8)
    assert 8 * size == pytest.approx(both, abs=128)  # what is written is what the tables are worth
    assert both < 1.02 * min(alone, order2, 8 * len(text)) + 400


def test_code_takes_less_than_either_expert_alone(model: Model) -> None:
    _, (alone, order2, both) = round_trip(model, SHUFFLED[0] + SHUFFLED[1], 8)
    assert both < min(alone, order2)


def test_tables_are_whole_numbers_that_leave_every_byte_possible() -> None:
    experts, generator = Experts(3), np.random.default_rng(0)
    for scale in (0, 1, 30, 1000):
        logits = torch.from_numpy(generator.normal(size=(3, 256)) * scale).float()
        tables = experts.tables(logits.log_softmax(-1).numpy())
        assert (tables == np.floor(tables)).all() and tables.min() >= 1
        assert (tables.astype(np.int64).sum(1) == TOTAL).all()
        experts.learn(generator.integers(0, 256, 3).astype(np.uint8))
    assert (experts.logs_L2S >= FLOOR).all()


def test_order_two_counts_as_a_loop_over_dictionaries_does() -> None:
    experts, text = Experts(1), (b"abracadabra " * 120)[:1300]  # more than a count can hold
    uniform = np.full((1, 256), -math.log(256), np.float32)
    counts: dict[bytes, dict[int, int]] = {}
    padded = b"\0\0" + text
    for at, byte in enumerate(text):
        experts.tables(uniform)
        expected = np.full(256, 1 / 256)
        for order in range(3):
            seen = counts.get(bytes([order]) + padded[at + 2 - order : at + 2], {})
            if seen:
                new = expected * len(seen)
                for other, count in seen.items():
                    new[other] += count
                expected = new / (sum(seen.values()) + len(seen))
        np.testing.assert_allclose(np.exp(experts.logs_L2S[0, 1]), np.maximum(expected, math.exp(FLOOR)), rtol=1e-9)
        experts.learn(np.array([byte], np.uint8))
        for order in range(3):
            seen = counts.setdefault(bytes([order]) + padded[at + 2 - order : at + 2], {})
            if seen.get(byte, 0) == 1023:
                for other in list(seen):
                    seen[other] //= 2
                    if not seen[other]:
                        del seen[other]
            seen[byte] = seen.get(byte, 0) + 1


def packed(model: Model, text: bytes) -> bytes:
    words, _ = coder.encode(model, text, 2)
    header = container.Header(1, 2, len(text), coder.model_digest(model), bytes(16), coder.probe(model, 2), "here")
    return container.pack(header, words)


def test_every_flipped_bit_and_every_cut_of_a_file_is_refused(model: Model) -> None:
    data = packed(model, CODE[:300])
    header, words = container.unpack(data, "f")
    assert (header.length, header.lanes, header.origin) == (300, 2, "here")
    assert coder.decode(model, words, header.length, header.lanes) == CODE[:300]
    generator = random.Random(1)
    for _ in range(500):
        changed = bytearray(data)
        changed[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        with pytest.raises(ByteproxyError, match="f: "):
            container.unpack(bytes(changed), "f")
    for cut in range(len(data)):
        with pytest.raises(ByteproxyError, match="f: "):
            container.unpack(data[:cut], "f")
    with pytest.raises(ByteproxyError, match="another checksum"):
        container.check_text(header, CODE[:300], "f")


def test_a_decoder_that_goes_astray_says_so_before_the_end(model: Model) -> None:
    text = CODE[:6000]
    words, _ = coder.encode(model, text, 2)
    words = words.copy()
    words[100] ^= 1
    with pytest.raises(ByteproxyError, match=r"went astray by step \d+ of 3000"):
        coder.decode(model, words, len(text), 2)


def test_the_digest_is_of_what_predicts_raw_bytes(tiny_config: Config) -> None:
    one, other = Model(tiny_config, [320, 576]), Model(tiny_config, [320])
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            parameter.copy_(one.get_parameter(name))
    assert coder.model_digest(one) == coder.model_digest(other)
    with torch.no_grad():
        other.layers[1].mlp.up_proj.weight[3, 5] += 1e-6
    assert coder.model_digest(one) != coder.model_digest(other)


def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-m", "trainer", *arguments]
    return subprocess.run(line, capture_output=True, text=True, env=environment, timeout=1200)


def test_another_process_decompresses_and_another_model_is_refused_by_name(run: Path, tmp_path: Path) -> None:
    source, target, back = tmp_path / "a.py", tmp_path / "a.py.bpx", tmp_path / "b.py"
    source.write_bytes(CODE[:4000])
    assert main(["compress", str(source), "--run", str(run), "--lanes", "4"]) == 0
    assert target.stat().st_size < 3000
    done = command("decompress", str(target), "--run", str(run), "--out", str(back))
    assert done.returncode == 0 and back.read_bytes() == CODE[:4000], done.stderr
    with pytest.raises(ByteproxyError, match=r"with model \w{12} \(tiny step 60.*\w{12} found \(tiny step 56"):
        main(["decompress", str(target), "--run", str(run), "--step", "56", "--out", str(tmp_path / "c.py")])
    with pytest.raises(ByteproxyError, match=r"b\.py exists"):
        main(["decompress", str(target), "--run", str(run), "--out", str(back)])
    assert not (tmp_path / "c.py").exists()


def test_a_machine_that_computes_other_floats_is_refused_before_decoding(run: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "a.py", tmp_path / "a.py.bpx"
    source.write_bytes(CODE[:600])
    assert main(["compress", str(source), "--run", str(run)]) == 0
    header, words = container.unpack(target.read_bytes(), "a")
    other = container.Header(**(vars(header) | {"probe": bytes(8)}))
    target.write_bytes(container.pack(other, words))
    with pytest.raises(ByteproxyError, match="this machine computes other floats"):
        main(["decompress", str(target), "--run", str(run), "--out", str(tmp_path / "b.py")])


@pytest.mark.slow
def test_a_megabyte_of_held_out_code_is_compressed_and_decompressed_by_another_process(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Source files that are none of the set's: larger than it takes, and of another folder."""
    import json
    import sysconfig

    files = sorted(Path(sysconfig.get_path("stdlib"), "asyncio").glob("*.py"))
    files += [path for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")) if path.stat().st_size > 12_000]
    source = tmp_path / "code"
    source.write_bytes(b"".join(path.read_bytes() for path in files)[:1_000_000])
    assert source.stat().st_size == 1_000_000
    capsys.readouterr()
    assert main(["evaluate", "--run", str(run), "--as-compressor", str(source), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["exact"] and found["sizes"]["this model"] < 0.6 * 1_000_000
    assert set(found["sizes"]) == {"this model", "gzip -9", "zstd -19", "brotli -11", "xz -9e"}
