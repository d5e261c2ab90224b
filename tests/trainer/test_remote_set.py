"""Training from an object store: the same batches as from a folder, through a cache smaller than the set."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from shards.errors import ByteproxyError
from shards.reader import ShardSet
from tests.s3 import address, s3_server, upload
from tests.sets import build_set
from tests.trainer.planning import copied
from trainer.config import Config, make_config
from trainer.loader import Loader
from trainer.mixture import open_mixture

pytestmark = pytest.mark.network


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A set of ten shards in a folder, and the same at a URL."""
    train = [os.urandom(1200) for _ in range(80)]
    folder = build_set(tmp_path_factory.mktemp("remote") / "set", train, [b"held out"], "gzip", shards=10)
    with s3_server() as endpoint:
        upload(endpoint, folder, "sets/ten")
        yield folder, address(endpoint, "sets/ten")


@pytest.fixture
def config(places: tuple[Path, str], tmp_path: Path) -> Config:
    values = {"mode": "parallel", "context": 300, "batch_rows": 3, "steps": 400, "cache": str(tmp_path / "cache")}
    return make_config(values | {"shards": places[1], "shuffle_window": 2})


def test_batches_from_a_store_through_a_small_cache_equal_those_from_the_folder(
    places: tuple[Path, str], config: Config, tmp_path: Path
) -> None:
    sizes = [file.size for file in ShardSet.open(places[0]).manifest.splits["train"]]
    limit = 5 * max(sizes)
    remote = open_mixture(replace(config, cache_bytes=limit))
    local = open_mixture(replace(config, shards=str(places[0])))
    largest = 0
    with (
        Loader(remote.sources, remote.views, config, None, 2) as far,
        Loader(local.sources, local.views, config, None, 0) as near,
    ):
        for (batch, state), (expected, expected_state) in zip(far, near, strict=True):
            assert state.to_json() == expected_state.to_json()
            found, wanted = copied(batch), copied(expected)
            assert all((found[name] == wanted[name]).all() for name in wanted)
            held = [path.stat().st_size for path in (tmp_path / "cache").rglob("*.parquet") if path.exists()]
            largest = max(largest, sum(held))
        assert state.taken_S[0] > 80  # more than an epoch
    assert 0 < largest <= limit < sum(sizes)


def test_a_cache_smaller_than_the_set_needs_a_window_and_room_for_it(config: Config) -> None:
    with pytest.raises(ByteproxyError, match=r"a global order would fetch files again .* --shuffle-window K"):
        open_mixture(replace(config, cache_bytes=5000, shuffle_window=0))
    with pytest.raises(ByteproxyError, match=r"--shuffle-window 9: up to .* at a time, and the cache holds 5,000"):
        open_mixture(replace(config, cache_bytes=5000, shuffle_window=9))


def test_credentials_in_a_url_are_refused_and_not_repeated(config: Config) -> None:
    for url in ("s3://AKID:hush@bucket/set", "s3://bucket/set?secret_key=hush"):
        with pytest.raises(ByteproxyError, match="credentials in the URL") as error:
            open_mixture(replace(config, shards=url))
        assert "hush" not in str(error.value)
