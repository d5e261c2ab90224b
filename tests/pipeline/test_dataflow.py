"""Dataflow, without it: what is missing is said, the job is translated, and its workers have all that it needs."""

import json
import os
import shutil
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from apache_beam.portability.api import beam_runner_api_pb2

from pipeline.config import BuildConfig, parse_views
from pipeline.running import dataflow, engines
from pipeline.running.engines import check_runner
from pipeline.running.storage import location
from shards.errors import ByteproxyError
from tests.pipeline.image import REPO, dockerfile, make_cloud, run_it, stages

IMAGE = "europe-west1-docker.pkg.dev/some-project/repository/byteproxy:1"
FLAGS = (
    "--project=some-project",
    "--region=europe-west1",
    "--temp_location=gs://bucket/temp",
    f"--sdk_container_image={IMAGE}",
    "--machine_type=n2-standard-8",
    "--num_workers=4",
    "--network=some-network",
)
OPTIONAL = {"magika", "trainer"}  # of extras of their own


def check(corpus: str, out: str, *flags: str) -> None:
    check_runner(
        BuildConfig((corpus,), location(out), parse_views("zstd"), ("c",), runner="DataflowRunner", beam_args=flags)
    )


@pytest.fixture
def cloud_support(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the extra were installed: what is checked next looks at flags alone."""
    monkeypatch.setattr(dataflow, "find_spec", lambda name: True)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataflow, "find_spec", lambda name: None)  # also where the extra is installed
    with pytest.raises(ByteproxyError, match=r"pip install -c constraints.txt 'byteproxy\[dataflow\]'"):
        check("gs://bucket/code", "gs://bucket/set", *FLAGS)


@pytest.mark.parametrize(
    ("corpus", "out", "flags", "texts"),
    [
        ("gs://b/c", "gs://b/s", (), ["--project, --region, --temp_location and --sdk_container_image missing"]),
        ("gs://b/c", "gs://b/s", (*FLAGS[1:],), ["--project missing"]),
        ("/code", "/set", FLAGS, ["corpus /code: must be on gs://", "--out /set: must be on gs://"]),
        ("s3://b/c", "gs://b/s", FLAGS, ["corpus s3://b/c: must be on gs://"]),
        ("gs://b/c", "gs://b/s", (*FLAGS, "--temp_location=/tmp"), ["--temp_location /tmp: must be on gs://"]),
        ("gs://b/c", "gs://b/s", (*FLAGS, "--dry_run=True"), ["an estimate is --dry-run"]),
        ("gs://b/c", "gs://b/s", (*FLAGS, "--save_main_session"), ["--save_main_session: leave it out"]),
        ("gs://b/c", "gs://b/s", (*FLAGS, "--setup_file=setup.py"), ["make the image again"]),
        ("gs://b/c", "gs://b/s", (*FLAGS, "--sdk_location=x.tar"), ["--sdk_location=x.tar: container is expected"]),
    ],
)
def test_all_that_is_missing_or_wrong_is_said_at_once(
    cloud_support: None, corpus: str, out: str, flags: tuple[str, ...], texts: list[str]
) -> None:
    with pytest.raises(ByteproxyError) as caught:
        check(corpus, out, *flags)
    assert all(text in str(caught.value) for text in texts)


def test_a_whole_command_passes_and_takes_the_code_from_the_image(cloud_support: None) -> None:
    check("gs://bucket/code", "gs://bucket/set", *FLAGS)
    options = engines.options_of("DataflowRunner", FLAGS).get_all_options()
    assert options["sdk_location"] == "container" and not options["save_main_session"]


def test_workers_with_a_gpu_are_one_process_each(cloud_support: None) -> None:
    gpu = "--dataflow_service_options=worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver"
    check("gs://bucket/code", "gs://bucket/set", *FLAGS, gpu)
    with_gpu, without = (engines.options_of("DataflowRunner", flags) for flags in ((*FLAGS, gpu), FLAGS))
    assert "no_use_multiple_sdk_containers" in with_gpu.get_all_options()["experiments"]
    assert not without.get_all_options()["experiments"]


def test_flags_of_dataflow_are_known_and_its_faults_are_one_line(
    code: Path, tmp_path: Path, fails: Callable[..., str]
) -> None:
    message = fails(str(code), "--out", str(tmp_path / "o"), "--runner", "DataflowRunner", *FLAGS)
    assert "--runner DataflowRunner" in message and "no flag" not in message
    assert not (tmp_path / "o").exists()


def test_the_image_is_beams_own_for_the_pinned_beam_and_python() -> None:
    pins = dict(line.split("==") for line in (REPO / "constraints.txt").read_text().splitlines() if "==" in line)
    python = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["mypy"]["python_version"]
    bases = {instruction.rest.partition(" AS ")[0] for instruction in dockerfile() if instruction.name == "FROM"}
    assert bases == {f"apache/beam_python{python}_sdk:{pins['apache-beam']}"}


def test_the_image_copies_what_is_there_and_starts_as_beam_wants() -> None:
    for name, instructions in stages().items():
        for instruction in instructions:
            if instruction.name == "COPY":
                *sources, _ = instruction.rest.split()
                if sources[0].startswith("--from="):
                    assert sources[0].removeprefix("--from=") in stages()
                else:
                    assert all((REPO / source).exists() for source in sources), name
                    sent = (REPO / ".dockerignore").read_text().splitlines()
                    assert all(f"!{source}" in sent for source in sources)
    last = stages()[""]
    assert (last[-1].name, json.loads(last[-1].rest)) == ("ENTRYPOINT", ["/opt/apache/beam/boot"])
    (command,) = [instruction.rest for instruction in last if instruction.name == "RUN"]
    assert "--constraint constraints.txt" in command and "[pipeline]" in command
    assert {instruction.name for instruction in dockerfile()} == {
        "ARG", "FROM", "WORKDIR", "COPY", "RUN", "ENTRYPOINT",
    }  # fmt: skip


@pytest.fixture(scope="module")
def translated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Both graphs as Dataflow's runner describes them, by an interpreter with its support."""
    folder = tmp_path_factory.mktemp("cloud")
    try:
        python = make_cloud(folder / "environment")
        known = {"client_id": "x", "client_secret": "x", "refresh_token": "x", "token": "x"}
        known |= {"type": "authorized_user", "expiry": "2999-01-01T00:00:00Z"}
        (folder / "credentials.json").write_text(json.dumps(known))
        environment = os.environ | {"GOOGLE_APPLICATION_CREDENTIALS": str(folder / "credentials.json")}
        command = (python, "-m", "tests.pipeline.translate", folder, *FLAGS)
        run_it(*command, folder=REPO, environment=environment)
        yield {name: folder / name for name in ("survey", "encode")}
    finally:
        shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.network
def test_the_job_description_has_every_step_and_our_image_alone(translated: dict[str, Path]) -> None:
    for graph, steps in (("survey", {"unpack", "read", "deduplicate", "sample", "limit", "split", "save index"}),
                         ("encode", {"blocks", "encode", "by shard", "join"})):  # fmt: skip
        pipeline = beam_runner_api_pb2.Pipeline.FromString(translated[graph].read_bytes())
        names = {transform.unique_name for transform in pipeline.components.transforms.values()}
        assert {name for name in steps if not any(n == name or n.startswith(f"{name}/") for n in names)} == set()
        images = {
            beam_runner_api_pb2.DockerPayload.FromString(environment.payload).container_image
            for environment in pipeline.components.environments.values()
        }
        assert images == {IMAGE}
        assert not [e for env in pipeline.components.environments.values() for e in env.dependencies]


@pytest.mark.slow
@pytest.mark.network
def test_what_the_image_installs_unpickles_every_step_and_has_every_package_that_they_import(
    translated: dict[str, Path], clean: Path
) -> None:
    script = Path(__file__).with_name("unpickle.py")
    told = json.loads(run_it(clean, "-I", script, *translated.values(), folder=translated["survey"].parent))
    classes = set(told["functions"].values())
    assert {
        "Unpack", "Read", "Deduplicate", "TakeShare", "TakeFirst", "CountDraws", "AssignGroups", "SumBuckets",
        "KeyByBlock", "SampleFn", "SaveIndex", "SaveSample", "KeyRejected", "SaveRejected", "EncodeBlock", "JoinShard",
    } <= classes  # fmt: skip
    assert {"pipeline", "shards", "apache_beam", "pyarrow", "numpy"} <= told["packages"].keys()
    assert {name for name, owner in told["packages"].items() if owner is None} <= OPTIONAL
