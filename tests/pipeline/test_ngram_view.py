"""An n-gram view, fitted on the set's sample: built by one or two workers, added later, verified: the same set."""

from pathlib import Path

from pipeline.__main__ import main
from shards.__main__ import main as shards_main
from shards.reader import ShardSet
from tests.pipeline.conftest import copy_code, digests, run_build


def test_a_view_built_or_added_is_the_same(tmp_path: Path) -> None:
    corpus, view = copy_code(tmp_path / "corpus", ("json",)), "ngram:window=12,table=10"
    assert run_build(corpus, tmp_path / "plain", views="gzip") == 0
    assert run_build(corpus, tmp_path / "one", views=f"gzip {view}") == 0
    assert run_build(corpus, tmp_path / "two", "--workers", "2", views=f"gzip {view}") == 0
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert main(["add-view", str(tmp_path / "plain"), "--workers", "1", "--view", view]) == 0
    whole, grown = ShardSet.open(tmp_path / "one").manifest, ShardSet.open(tmp_path / "plain").manifest
    assert whole.views == grown.views
    for split in ("train", "val"):
        assert [file.sha256 for file in whole.splits[split]] == [file.sha256 for file in grown.splits[split]]
    assert shards_main(["verify", str(tmp_path / "plain")]) == 0
