"""Whole builds from inputs that are neither folders nor JSONL: what they give is what a folder gives."""

import os
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.reading.fingerprint import content_fingerprint
from pipeline.reading.inputs import corpora, take_inventory
from shards.manifest import Manifest
from shards.verify import verify
from tests.pipeline.conftest import digests, run_build


def rows_of(out: Path) -> dict[str, bytes]:
    """Bytes of the documents by path."""
    found = {}
    for path in [*out.glob("train/*.parquet"), *out.glob("val/*.parquet")]:
        rows = pq.read_table(path, columns=["path", "raw"])
        found |= dict(zip(rows["path"].to_pylist(), rows["raw"].to_pylist(), strict=True))
    return found


def reasons_of(out: Path) -> dict[str, str]:
    """Reason by path of what was left out."""
    rows = pq.read_table(out / "rejected", columns=["path", "reason"])
    return dict(zip(rows["path"].to_pylist(), rows["reason"].to_pylist(), strict=True))


def assert_whole(out: Path) -> None:
    """The set is sound, and nothing was lost."""
    assert verify(out) == 0
    counts = Manifest.load(out).counts
    assert counts["documents"] + counts["rejected"] == counts["found"]


@pytest.fixture(scope="module")
def from_folder(code: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("folder") / "set"
    run_build(code, out)
    return out


def as_tar(code: Path, target: Path) -> None:
    with tarfile.open(target, "w" if target.suffix == ".tar" else "w:gz") as archive:
        archive.add(code, arcname=".")


def as_zip(code: Path, target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in code.rglob("*"):
            archive.write(path, path.relative_to(code))


def git_head(folder: Path) -> str:
    return subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, check=True, capture_output=True, text=True).stdout


def as_git(code: Path, target: Path) -> None:
    shutil.copytree(code, target)
    identity = ["-c", "user.name=x", "-c", "user.email=x"]
    for command in (
        ["init", "-q"],
        ["add", "-A", "-f"],
        [*identity, "commit", "-q", "-m", "x"],
        ["rm", "-q", "-r", "."],
    ):
        subprocess.run(["git", *command], cwd=target, check=True)


def as_parquet(code: Path, target: Path) -> None:
    files = sorted(path for path in code.rglob("*") if path.is_file())
    columns = {
        "max_stars_repo_path": [str(path.relative_to(code)) for path in files],
        "content": [path.read_bytes() for path in files],
    }
    pq.write_table(pa.table(columns), target, row_group_size=30)


@pytest.mark.parametrize(
    ("name", "make"), [("code.tgz", as_tar), ("code.zip", as_zip), ("code.parquet", as_parquet), ("git", as_git)]
)
def test_another_form_of_a_folder_gives_its_documents(
    name: str, make: Callable[[Path, Path], None], code: Path, from_folder: Path, tmp_path: Path
) -> None:
    make(code, tmp_path / name)
    run_build(f"git:{tmp_path}/git@HEAD" if name == "git" else tmp_path / name, tmp_path / "set")
    assert_whole(tmp_path / "set")
    assert rows_of(tmp_path / "set") == rows_of(from_folder)
    assert not (tmp_path / "set" / ".build").exists()
    shown = f"git:git@{git_head(tmp_path / name)[:12]}" if name == "git" else name
    assert f"python -m pipeline build {shown} " in (tmp_path / "set" / "report.json").read_text()


def test_the_fingerprint_of_contents_sees_what_is_in_archives_tables_and_commits(code: Path, tmp_path: Path) -> None:
    def look(spec: str) -> str:
        return content_fingerprint(take_inventory(corpora([spec]), (), tmp_path / "out"), 1)

    small = tmp_path / "small"
    shutil.copytree(code / "json", small)
    for name, make in (("x.tar", as_tar), ("x.zip", as_zip), ("x.parquet", as_parquet)):
        make(small, tmp_path / name)
        first = look(str(tmp_path / name))
        os.utime(tmp_path / name, (1, 1))
        assert look(str(tmp_path / name)) == first
        data = bytearray((tmp_path / name).read_bytes())
        data[len(data) // 3] ^= 1
        (tmp_path / name).write_bytes(data)
        assert look(str(tmp_path / name)) != first
    as_git(small, tmp_path / "git")
    first = look(f"git:{tmp_path}/git@HEAD")
    commit = ["-c", "user.name=x", "-c", "user.email=x", "commit", "-q", "--allow-empty", "-m", "y"]
    subprocess.run(["git", *commit], cwd=tmp_path / "git", check=True)
    assert look(f"git:{tmp_path}/git@HEAD~") == first != look(f"git:{tmp_path}/git@HEAD")


@pytest.mark.slow
def test_sets_from_archives_and_tables_are_the_same_with_any_number_of_workers(
    code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_tar(code, tmp_path / "a.tar.gz")
    as_zip(code, tmp_path / "b.zip")
    as_parquet(code, tmp_path / "c.parquet")
    as_git(code, tmp_path / "d")
    monkeypatch.setattr("pipeline.reading.repositories.PART_BYTES", 500_000)
    monkeypatch.setattr("pipeline.reading.tables.ITEM_BYTES", 500_000)
    monkeypatch.setattr("pipeline.reading.inputs.ZIP_PART_BYTES", 100_000)
    monkeypatch.setattr("pipeline.build.SURVEY_ALONE", 0)
    corpus = f"{tmp_path / 'a.tar.gz'},{tmp_path / 'b.zip'},{tmp_path / 'c.parquet'},git:{tmp_path / 'd'}@HEAD"
    for workers, block in ((1, "8M"), (2, "100k"), (3, "300k")):
        run_build(corpus, tmp_path / str(workers), "--workers", str(workers), "--block-bytes", block)
    assert digests(tmp_path / "1") == digests(tmp_path / "2") == digests(tmp_path / "3")
    assert_whole(tmp_path / "1")
