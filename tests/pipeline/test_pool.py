"""Another engine: Beam's portable runner, its workers from a pool. The same bytes, and errors as clear as elsewhere.

In the slow tests the workers are in an environment that holds only what we ship.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from pyarrow import fs

from pipeline.__main__ import main
from pipeline.running.relay import relayed
from pipeline.running.runner import run_graph
from pipeline.running.scratch import Scratch
from shards.errors import ByteproxyError
from tests.pipeline.conftest import FAST, VIEWS, digests, run_build
from tests.pipeline.image import REPO, run_it
from tests.s3 import BUCKET, address, s3_server, upload

EMBEDDED = ["PortableRunner", "--job_endpoint=embed"]


@contextmanager
def pool(python: Path, folder: Path, environment: Mapping[str, str] = {}) -> Iterator[tuple[str, ...]]:
    """Beam's flags for a pool of that interpreter, which is gone at the end whatever happens."""
    command = [str(python), "-m", "pipeline.worker", "pool", "0"]
    process = subprocess.Popen(
        command, cwd=folder, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()[-1]
        yield "--job_endpoint=embed", "--environment_type=EXTERNAL", f"--environment_config={address}"
    finally:
        process.kill()
        process.communicate()


class Misbehave(beam.DoFn):
    """Raises, or dies, and first tells where it runs."""

    def __init__(self, folder: Path, how: str) -> None:
        self.folder, self.how = folder, how

    @relayed
    def process(self, number: int) -> None:
        (self.folder / str(os.getpid())).touch()
        if self.how == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ByteproxyError("file x: found 3, expected 2")


@pytest.mark.parametrize(("how", "text"), [("raise", "file x: found 3, expected 2"), ("die", "ended unexpectedly")])
def test_what_goes_wrong_in_a_worker_of_a_pool_is_told_as_what_it_was(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], how: str, text: str
) -> None:
    (tmp_path / "who").mkdir()

    def fill(root: beam.Pipeline) -> Any:
        return root | beam.Create([1]) | beam.ParDo(Misbehave(tmp_path / "who", how))

    with pool(Path(sys.executable), REPO) as flags, pytest.raises(ByteproxyError, match=text):
        run_graph(fill, Scratch(tmp_path), "PortableRunner", 1, flags)
    (who,) = [int(path.name) for path in (tmp_path / "who").iterdir()]
    assert who != os.getpid()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{who}").exists():
        assert time.monotonic() < deadline, "a worker outlives its pool"
        time.sleep(0.05)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["PortableRunner"], "needs a job server: --job_endpoint=HOST:PORT, or --job_endpoint=embed"),
        (EMBEDDED, "needs workers: --environment_type=EXTERNAL"),
        (["PortableRunner", "--job_endpoint=nowhere"], "--job_endpoint=nowhere: HOST:PORT is expected"),
        (["PortableRunner", "--job_endpoint=localhost:1"], "nothing answers there"),
        ([*EMBEDDED, "--environment_type=EXTERNAL"], "needs --environment_config=HOST:PORT, that of a worker pool"),
        (
            [*EMBEDDED, "--environment_type=EXTERNAL", "--environment_config=localhost:1"],
            "start it: python -m pipeline.worker pool 1",
        ),
        (["FlinkRunner"], "needs Java and Beam's job server for Flink: --flink_job_server_jar=FILE.jar"),
        (["SparkRunner"], "needs Java and Beam's job server for Spark: --spark_job_server_jar=FILE.jar"),
        (["FlinkRunner", "--flink_job_server_jar=x.jar"], "--runner FlinkRunner needs workers: "),
        (["LocalRuner"], "--runner LocalRuner: one of LocalRunner, PortableRunner, "),
    ],
)
def test_a_runner_that_lacks_something_says_so_before_anything_starts(
    tmp_path: Path, fails: Callable[..., str], flags: list[str], text: str
) -> None:
    (tmp_path / "c").mkdir()
    assert text in fails(str(tmp_path / "c"), "--out", str(tmp_path / "o"), "--runner", *flags)
    assert not (tmp_path / "o").exists()


def test_a_pool_that_cannot_be_says_why(tmp_path: Path) -> None:
    def ends(*arguments: str) -> str:
        command = [sys.executable, "-m", "pipeline.worker", *arguments]
        done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2
        return done.stderr

    assert "error: pool x found, expected python -m pipeline.worker pool PORT" in ends("pool", "x")
    with pool(Path(sys.executable), REPO) as flags:
        port = flags[-1].rpartition(":")[2]
        assert f"error: port {port} is taken" in ends("pool", port)


@pytest.mark.slow
@pytest.mark.network
def test_two_runners_one_with_workers_that_have_only_what_we_ship_give_the_same_bytes(
    troubled: Path, built: Path, clean: Path, tmp_path: Path
) -> None:
    installed = run_it(clean, "-m", "pip", "freeze").lower()
    assert "byteproxy" in installed and "apache-beam==" in installed
    assert not {"torch", "pytest", "duckdb", "hypothesis"} & {line.partition("==")[0] for line in installed.split()}
    with pool(clean, tmp_path) as flags:
        runner = ("--runner", "PortableRunner", *flags, "--workers", "2", "--max-bytes", "300k")
        assert run_build(troubled, tmp_path / "set", *runner, views=VIEWS) == 0
    assert digests(tmp_path / "set") == digests(built)


@pytest.mark.slow
@pytest.mark.network
def test_workers_that_share_only_an_object_store_give_the_same_bytes(
    code: Path, clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_build(code, tmp_path / "here", views=VIEWS) == 0
    with s3_server() as endpoint:
        store = upload(endpoint, code, "code")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache of the parent"))
        with pool(clean, tmp_path, {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": ""}) as flags:
            runner = ("--runner", "PortableRunner", *flags, "--workers", "2")
            out = address(endpoint, "sets/code")
            assert main(["build", address(endpoint, "code"), "--out", out, "--views", VIEWS, *FAST, *runner]) == 0
        fs.copy_files(f"{BUCKET}/sets/code", str(tmp_path / "there"), source_filesystem=store, use_threads=False)
    assert digests(tmp_path / "there") == digests(tmp_path / "here")


@pytest.mark.slow
@pytest.mark.network
def test_workers_with_other_code_or_libraries_refuse(
    code: Path, clean: Path, tmp_path: Path, fails: Callable[..., str]
) -> None:
    site = Path(run_it(clean, "-P", "-c", "import pipeline; print(pipeline.__path__[0])").strip())
    assert site.is_relative_to(clean.parents[1])
    words = (str(code), "--views", "zstd", "--runner", "PortableRunner")
    original = (site / "split.py").read_text()
    (site / "split.py").write_text(original.replace("BIG_SHARE = 50", "BIG_SHARE = 49"))
    with pool(clean, tmp_path) as flags:
        message = fails(*words, *flags, "--out", str(tmp_path / "one"))
    assert "a worker has other libraries than the parent (byteproxy: " in message
    (site / "split.py").write_text(original)
    pip = (clean, "-m", "pip", "--quiet", "install", "--no-deps")
    pinned = next(line for line in (REPO / "constraints.txt").read_text().splitlines() if line.startswith("identify=="))
    run_it(*pip, pinned.replace("==", "<"))
    try:
        with pool(clean, tmp_path) as flags:
            message = fails(*words, *flags, "--out", str(tmp_path / "two"))
    finally:
        run_it(*pip, pinned)
    assert "(identify: " in message and "install the same versions" in message
