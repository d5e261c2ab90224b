"""An n-gram view, fitted on the set's sample: built by one or two workers, added later, verified: the same set."""

from pathlib import Path

from shards.__main__ import main as shards_main
from tests.pipeline.conftest import assert_built_or_added_alike, copy_code, run_build


def test_a_view_built_or_added_is_the_same(tmp_path: Path) -> None:
    corpus, view = copy_code(tmp_path / "corpus", ("json",)), "ngram:window=12,table=10"
    assert run_build(corpus, tmp_path / "plain", views="gzip") == 0
    assert_built_or_added_alike(corpus, tmp_path, view)
    assert shards_main(["verify", str(tmp_path / "plain")]) == 0
