"""The local runner: no download, real processes, options that arrive, errors that stay readable."""

import os
import signal
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.internal import pickler
from apache_beam.runners.portability.prism_runner import PrismRunner

from pipeline import blocks, rejected, survey
from pipeline.cleaning import choose
from pipeline.cleaning.filters import Filters
from pipeline.config import BuildConfig, parse_views
from pipeline.encode import EncodeBlock, EncodeTask, JoinShard
from pipeline.reading.unsought import ReadOptions
from pipeline.running.relay import RelayedError, relayed, unwrap
from pipeline.running.runner import run_graph
from pipeline.running.scratch import Scratch
from pipeline.split import Layout
from shards.errors import ByteproxyError


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    found = Scratch(tmp_path)
    found.workers.touch()
    return found


class Who(beam.DoFn):
    """Tells where it runs, and with which options."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def process(self, number: int) -> None:
        from apache_beam.options.value_provider import RuntimeValueProvider

        label = (RuntimeValueProvider.runtime_options or {}).get("job_name", "")
        (self.folder / f"{number}").write_text(f"{os.getpid()} {label}")


class Fail(beam.DoFn):
    """Fails in the way it is told to."""

    def __init__(self, how: str) -> None:
        self.how = how

    @relayed
    def process(self, number: int) -> list[int]:
        if number == 3:
            if self.how == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ByteproxyError("file x: found 3, expected 2")
        return [number]


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_are_processes_that_know_the_pipelines_options(tmp_path: Path, scratch: Scratch, workers: int) -> None:
    folder = tmp_path / "who"
    folder.mkdir()

    def fill(root: beam.Pipeline) -> Any:
        return root | beam.Create(range(8)) | beam.ParDo(Who(folder))

    run_graph(fill, scratch, "LocalRunner", workers, ("--job_name=named",))
    seen = [path.read_text().split() for path in folder.iterdir()]
    assert len(seen) == 8
    pids = {int(pid) for pid, *_ in seen}
    assert pids == {os.getpid()} if workers == 1 else len(pids) == 2 and os.getpid() not in pids
    if workers == 2:
        assert {label for _, *label in map(tuple, seen) for label in label} == {"named"}


@pytest.mark.parametrize(
    ("workers", "how", "text"), [(1, "raise", "file x: found 3"), (2, "raise", "file x: found 3"), (2, "die", "-9")]
)
def test_an_error_in_a_worker_is_raised_as_what_it_was(scratch: Scratch, workers: int, how: str, text: str) -> None:
    def fill(root: beam.Pipeline) -> Any:
        return root | beam.Create(range(8)) | beam.ParDo(Fail(how))

    with pytest.raises(ByteproxyError, match=text):
        run_graph(fill, scratch, "LocalRunner", workers, ())


def test_the_local_runner_never_looks_for_another_engine(scratch: Scratch, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    for name in ("path_to_binary", "path_to_beam_jar", "construct_download_url", "download_prism"):
        if hasattr(PrismRunner, name):
            monkeypatch.setattr(PrismRunner, name, lambda *_, name=name: asked.append(name))
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: asked.append("urlopen"))
    run_graph(lambda root: root | beam.Create([1, 2]) | beam.Map(abs), scratch, "LocalRunner", 1, ())
    assert not asked


def test_every_step_can_be_shipped(scratch: Scratch) -> None:
    config = BuildConfig(("c",), Path("o"), parse_views("zstd"), ("python",))
    layout = {"train": Layout(1, 1, 1, 1)}
    task = EncodeTask(scratch, (), {"pyarrow": "1"}, layout, 0, 1.0, 1 << 20)
    filters = Filters(frozenset({"c"}), False, 1, False)
    options = ReadOptions((), 9, None, False)
    steps = [
        survey.Unpack(scratch, options), survey.Read(filters, options, 4, scratch), survey.Deduplicate(scratch),
        survey.AssignGroups(0),
        survey.SumBuckets(), blocks.KeyByBlock(0, 1), blocks.SampleFn(1), blocks.SaveSample(scratch),
        blocks.SaveIndex(scratch), rejected.KeyRejected(1), rejected.SaveRejected(1, scratch), EncodeBlock(task),
        JoinShard(task), choose.TakeShare(0.5, 0), choose.TakeFirst(1, 0), choose.CountDraws(0), config,
    ]  # fmt: skip
    for step in steps:
        assert type(pickler.loads(pickler.dumps(step))) is type(step)  # as Beam itself ships it


def test_a_worker_with_other_libraries_refuses_to_start(scratch: Scratch) -> None:
    task = EncodeTask(scratch, (), {"pyarrow": "0.1"}, {}, 0, 1.0, 1 << 20)
    with pytest.raises(RelayedError) as caught:
        EncodeBlock(task).setup()
    error = unwrap(caught.value)
    assert isinstance(error, ByteproxyError) and "0.1 expected" in str(error)
