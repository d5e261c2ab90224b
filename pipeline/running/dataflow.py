"""What a build on Google Cloud Dataflow must be given. Its workers share no file system, so all lies on gs://."""

from collections.abc import Iterator
from importlib.util import find_spec

from apache_beam.options.pipeline_options import (
    DebugOptions,
    GoogleCloudOptions,
    PipelineOptions,
    SetupOptions,
    TestOptions,
    WorkerOptions,
)

from pipeline.config import BuildConfig
from shards.errors import ByteproxyError

CONTAINER = "container"  # the value of --sdk_location: nothing is staged, the image has it all
ONE_PROCESS = "no_use_multiple_sdk_containers"  # a worker: its threads share the GPU, and one copy of the model


def set_defaults(options: PipelineOptions) -> None:
    """Options that ours stand for: the workers' code is that of the image."""
    setup = options.view_as(SetupOptions)
    if setup.sdk_location in (None, "default"):
        setup.sdk_location = CONTAINER
    services = options.view_as(GoogleCloudOptions).dataflow_service_options or ()
    if any(service.startswith("worker_accelerator=") for service in services):
        options.view_as(DebugOptions).add_experiment(ONE_PROCESS)


def check_dataflow(config: BuildConfig, options: PipelineOptions) -> None:
    """Raise ByteproxyError that names all that is missing or wrong."""
    if find_spec("apitools") is None:
        raise ByteproxyError(
            "--runner DataflowRunner needs Beam's support for Google Cloud: pip install -c constraints.txt "
            "'byteproxy[dataflow]'"
        )
    faults = list(_faults(config, options))
    if faults:
        raise ByteproxyError(f"--runner DataflowRunner: {'; '.join(faults)}. The README has a whole command")


def _faults(config: BuildConfig, options: PipelineOptions) -> Iterator[str]:
    cloud, worker, setup = (options.view_as(view) for view in (GoogleCloudOptions, WorkerOptions, SetupOptions))
    needed = {"--project": cloud.project, "--region": cloud.region, "--temp_location": cloud.temp_location}
    needed["--sdk_container_image"] = worker.sdk_container_image
    if missing := [flag for flag, value in needed.items() if not value]:
        yield f"{' and '.join(filter(None, [', '.join(missing[:-1]), missing[-1]]))} missing"
    folders = {"--temp_location": cloud.temp_location, "--staging_location": cloud.staging_location}
    places = {f"corpus {name}": name for name in config.corpus} | {"--out": str(config.out)} | folders
    for name, place in places.items():
        if place and not place.startswith("gs://"):
            found = name if name.startswith("corpus ") else f"{name} {place}"
            yield f"{found}: must be on gs://, for workers share no file system"
    if setup.sdk_location != CONTAINER:
        yield f"--sdk_location={setup.sdk_location}: {CONTAINER} is expected, for the image has all that workers need"
    if "--save_main_session" in config.beam_args:
        yield "--save_main_session: leave it out, for the steps are in the image"
    if setup.requirements_file or setup.setup_file or setup.extra_packages:
        yield "--requirements_file, --setup_file and --extra_package: leave them out, and make the image again"
    if options.view_as(TestOptions).dry_run:
        yield "--dry_run runs nothing, and no build can go on from that; an estimate is --dry-run"
