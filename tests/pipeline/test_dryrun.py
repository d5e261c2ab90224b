"""`--dry-run`: what it says is what a build gives, it reads a part, always the same, and writes nothing."""

import gzip
import io
import json
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline import dryrun
from pipeline.config import BuildConfig, parse_views
from pipeline.dryrun import estimate, measure, vcpus_of
from pipeline.reading import portion
from pipeline.reading.inputs import Inventory, corpora, take_inventory
from pipeline.reading.languages import DEFAULT
from pipeline.reading.portion import take_portion
from shards.errors import ByteproxyError
from shards.reader import ShardSet
from tests.pipeline.conftest import STDLIB, run_build

DOCUMENTS = 2000


def pieces() -> Iterator[tuple[str, bytes]]:
    """Real code in many documents: files of the standard library, cut into pieces of 30 lines."""
    for path in sorted(STDLIB.glob("*.py")):
        lines = path.read_bytes().splitlines(keepends=True)
        for number in range(0, len(lines), 30):
            yield f"{path.stem}/{number}.py", b"".join(lines[number : number + 30])


@pytest.fixture(scope="module")
def texts() -> dict[str, bytes]:
    return dict(sorted(pieces())[:DOCUMENTS])


def as_folder(texts: dict[str, bytes], target: Path) -> Path:
    for name, raw in texts.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(raw)
    (target / "a.png").write_bytes(bytes(1 << 20))  # large, and no code
    return target


def jsonl(texts: dict[str, bytes]) -> bytes:
    rows = ({"path": name, "text": raw.decode("utf-8", "replace")} for name, raw in texts.items())
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def as_lines(texts: dict[str, bytes], target: Path) -> Path:
    target.write_bytes(jsonl(texts))
    return target


def as_packed(texts: dict[str, bytes], target: Path) -> Path:
    target.write_bytes(gzip.compress(jsonl(texts)))
    return target


def as_tar(texts: dict[str, bytes], target: Path) -> Path:
    with tarfile.open(target, "w:gz") as out:
        for name, raw in texts.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(raw)
            out.addfile(entry, io.BytesIO(raw))
    return target


def as_zip(texts: dict[str, bytes], target: Path) -> Path:
    with zipfile.ZipFile(target, "w") as out:
        for name, raw in texts.items():
            out.writestr(name, raw)
    return target


def config_of(corpus: Path, out: Path, **options: object) -> BuildConfig:
    return BuildConfig((str(corpus),), out, parse_views("zstd gzip"), DEFAULT, sample_bytes=200 << 10, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "make"),
    [
        pytest.param("c", as_folder, id="folder"),
        pytest.param("c.jsonl", as_lines, id="jsonl", marks=pytest.mark.slow),
        pytest.param("c.jsonl.gz", as_packed, id="gz"),
        pytest.param("c.tar.gz", as_tar, id="tar", marks=pytest.mark.slow),
    ],
)
def test_a_part_of_a_corpus_tells_what_is_in_all_of_it(
    texts: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, make: Callable[..., Path]
) -> None:
    monkeypatch.setattr(portion, "MIN_START", 32 << 10)
    monkeypatch.setattr(dryrun, "ENOUGH", 80)
    corpus = make(texts, tmp_path / name)
    measured = measure(config_of(corpus, tmp_path / "out"))
    assert measured.portion.inventory.bytes < 0.7 * measured.inventory.bytes
    assert measured.report["counts"]["found"] < 0.7 * len(texts)
    told = estimate(config_of(corpus, tmp_path / "out"), measured)
    assert told.documents == pytest.approx(len(set(texts.values())), rel=0.2)
    assert told.bytes == pytest.approx(sum(map(len, set(texts.values()))), rel=0.2)
    assert "truncated" not in told.rejected
    assert not (tmp_path / "out").exists()


def test_of_a_small_corpus_all_is_read_and_all_is_told(
    code: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = set(Path(tempfile.gettempdir()).glob("byteproxy-dry-run-*"))
    flags = ("--shard-bytes", "1M")
    assert run_build(code, tmp_path / "set", *flags, "--dry-run", "--price-per-hour", "3.5") == 0
    text = capsys.readouterr().out
    assert not (tmp_path / "set").exists()
    assert set(Path(tempfile.gettempdir()).glob("byteproxy-dry-run-*")) <= before
    assert run_build(code, tmp_path / "set", *flags) == 0
    manifest = ShardSet.open(tmp_path / "set").manifest
    counts = manifest.counts
    assert f"documents {counts['documents']} kept of {counts['found']} found" in text
    assert f"train {len(manifest.splits['train'])}, val 1" in text
    (ratio,) = re.findall(r"view zstd +ratio +([\d.]+)", text)
    zstd = sum(shard.symbols["zstd"] for files in manifest.splits.values() for shard in files)
    assert float(ratio) == pytest.approx(counts["bytes"] / zstd, abs=0.01)
    assert re.search(r"time .* \(1 worker\)\n  cost .* hours of a machine at 3.5 an hour\nThis rests on:", text)


def test_a_rate_and_a_limit_are_reckoned_with(code: Path, tmp_path: Path) -> None:
    measured = measure(config_of(code, tmp_path / "out"))
    plain = estimate(config_of(code, tmp_path / "out"), measured)
    less = estimate(config_of(code, tmp_path / "out", sample_rate=0.5, limit=20), measured)
    assert less.documents == pytest.approx(20)
    assert less.rejected["not sampled"] == pytest.approx(plain.documents / 2)
    assert less.found == plain.found == pytest.approx(less.documents + sum(less.rejected.values()))
    assert less.bytes == pytest.approx(plain.bytes * 20 / plain.documents)


def test_a_part_too_small_to_be_split_is_made_larger(
    texts: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dryrun, "ENOUGH", 8)
    corpus = as_folder(dict(list(texts.items())[:200]), tmp_path / "c")
    assert measure(config_of(corpus, tmp_path / "out")).report["counts"]["documents"] > 20
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "x.py").write_text("x = 1\n")
    with pytest.raises(ByteproxyError, match="cannot set documents aside"):
        measure(config_of(tmp_path / "one", tmp_path / "out"))


def test_the_part_is_a_function_of_names_and_places(texts: dict[str, bytes], tmp_path: Path) -> None:
    folder, lines = as_folder(texts, tmp_path / "c"), as_lines(texts, tmp_path / "d.jsonl")
    archive = as_zip(texts, tmp_path / "e.zip")

    def inventory() -> Inventory:
        return take_inventory(corpora([str(folder), str(lines), str(archive)]), (), tmp_path / "out")

    parts = [take_portion(inventory(), share, 0, tmp_path).inventory for share in (0.1, 0.1, 0.3)]
    assert parts[0] == parts[1]
    names = [{name for item in part.files for name in item.names} for part in parts]
    assert names[0] < names[2] and 0.2 * DOCUMENTS < len(names[2]) < 0.4 * DOCUMENTS
    assert parts[2].found == len(names[2])
    assert 0.1 * lines.stat().st_size < sum(item.end - item.start for item in parts[2].lines) < lines.stat().st_size / 2


@pytest.mark.parametrize(
    ("machine", "vcpus"),
    [("n2-standard-8", 8), ("n1-highmem-96", 96), ("n2-custom-4-16384", 4), ("c3-standard-22", 22)],
)
def test_a_machine_type_names_its_vcpus(machine: str, vcpus: int) -> None:
    assert vcpus_of(machine) == vcpus


def test_flags_of_a_dry_run_that_make_no_sense_are_refused(
    code: Path, tmp_path: Path, fails: Callable[..., str]
) -> None:
    out = ("--out", str(tmp_path / "o"))
    assert "--price-per-hour is for --dry-run" in fails(str(code), *out, "--price-per-hour", "1")
    assert "corpus /nowhere: No such file" in fails("/nowhere", *out, "--dry-run")
    assert "it loses output" in fails(str(code), *out, "--dry-run", "--runner", "DaskRunner")
    assert "--machine_type is missing" in fails(str(code), *out, "--dry-run", "--runner", "DataflowRunner")
    with pytest.raises(ByteproxyError, match="--machine_type is missing"):
        vcpus_of(None)
    with pytest.raises(ByteproxyError, match="--machine_type e2-medium"):
        vcpus_of("e2-medium")
