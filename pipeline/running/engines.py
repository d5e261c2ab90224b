"""Which Beam runners are offered, and what each must be given before anything starts.

A runner that lacks something fails late, in a thread of its own or after a download; here it fails at once.
"""

import socket
from collections.abc import Callable, Sequence

from apache_beam.options.pipeline_options import (
    DirectOptions,
    FlinkRunnerOptions,
    PipelineOptions,
    PortableOptions,
    SetupOptions,
    SparkRunnerOptions,
)

from pipeline.config import BuildConfig
from pipeline.running.dataflow import check_dataflow, set_defaults
from shards.errors import ByteproxyError

REFUSED = {
    "dask": "it loses output without an error",
    "direct": "it tries to download another engine; LocalRunner is the same without",
    "prism": "it is a download; use LocalRunner",
    "interactive": "it is for notebooks; use LocalRunner",
}
LOCAL, PORTABLE, FLINK, SPARK = "LocalRunner", "PortableRunner", "FlinkRunner", "SparkRunner"
DATAFLOW = "DataflowRunner"
OFFERED = (LOCAL, PORTABLE, FLINK, SPARK, DATAFLOW)
WORKERS = (
    "workers: --environment_type=EXTERNAL --environment_config=HOST:PORT for those of `python -m pipeline.worker pool "
    "PORT`, or --environment_type=DOCKER --environment_config=IMAGE for the image of the Dockerfile"
)
ANSWER_SECONDS = 3.0


def check_name(name: str) -> None:
    """Refuse the runners that do harm, and what is none. Raises ByteproxyError."""
    for word, why in REFUSED.items():
        if word in name.lower():
            raise ByteproxyError(f"--runner {name} is not offered: {why}")
    if name not in OFFERED:
        raise ByteproxyError(f"--runner {name}: one of {', '.join(OFFERED)} is expected")


def check_runner(config: BuildConfig) -> None:
    """Refuse also those that lack something. Raises ByteproxyError."""
    check_name(config.runner)
    checks: dict[str, Callable[[BuildConfig, PipelineOptions], None]] = {
        PORTABLE: _check_portable,
        FLINK: _check_flink,
        SPARK: _check_spark,
        DATAFLOW: check_dataflow,
    }
    if check := checks.get(config.runner):
        check(config, options_of(config.runner, config.beam_args))


def options_of(runner: str, beam_args: Sequence[str], workers: int = 1) -> PipelineOptions:
    """Beam's options of a build: those given on the command line, and those that ours stand for."""
    options = PipelineOptions(list(beam_args))
    options.view_as(SetupOptions).save_main_session = False  # on Dataflow Beam's default is to ship what __main__ has
    if runner in (LOCAL, PORTABLE):  # the job server that comes with Beam reads it too
        options.view_as(DirectOptions).direct_num_workers = workers
    if runner == DATAFLOW:
        set_defaults(options)
    return options


def _check_portable(config: BuildConfig, options: PipelineOptions) -> None:
    portable = options.view_as(PortableOptions)
    if not portable.job_endpoint:
        raise ByteproxyError(
            "--runner PortableRunner needs a job server: --job_endpoint=HOST:PORT, or --job_endpoint=embed for the one "
            f"that comes with Beam; and {WORKERS}"
        )
    if portable.job_endpoint != "embed":
        _expect_answer("--job_endpoint", portable.job_endpoint, "start the job server")
    _check_environment(config, portable)


def _check_environment(config: BuildConfig, portable: PortableOptions) -> None:
    kind = portable.environment_type
    if not kind:
        raise ByteproxyError(f"--runner {config.runner} needs {WORKERS}")
    if kind == "EXTERNAL":
        if not portable.environment_config:
            raise ByteproxyError(
                "--environment_type=EXTERNAL needs --environment_config=HOST:PORT, that of a worker pool"
            )
        start = f"start it: python -m pipeline.worker pool {portable.environment_config.rpartition(':')[2]}"
        _expect_answer("--environment_config", portable.environment_config, start)


def _check_flink(config: BuildConfig, options: PipelineOptions) -> None:
    _check_job_server(config, options, "flink", options.view_as(FlinkRunnerOptions).flink_job_server_jar)


def _check_spark(config: BuildConfig, options: PipelineOptions) -> None:
    _check_job_server(config, options, "spark", options.view_as(SparkRunnerOptions).spark_job_server_jar)


def _check_job_server(config: BuildConfig, options: PipelineOptions, engine: str, jar: str | None) -> None:
    """Beam would download the jar of the job server, which no Python package carries."""
    if not jar:
        raise ByteproxyError(
            f"--runner {config.runner} needs Java and Beam's job server for {engine.title()}: "
            f"--{engine}_job_server_jar=FILE.jar (beam-runners-{engine}-…-job-server of Maven Central, of this "
            "version of Beam), or start one and use --runner PortableRunner --job_endpoint=HOST:PORT; and "
            f"{WORKERS}. All of them must see corpus and OUT under the same names"
        )
    _check_environment(config, options.view_as(PortableOptions))


def _expect_answer(flag: str, address: str, way_out: str) -> None:
    """Raise unless something listens at HOST:PORT."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ByteproxyError(f"{flag}={address}: HOST:PORT is expected")
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ByteproxyError(f"{flag}={address}: nothing answers there ({error}); {way_out}") from None
