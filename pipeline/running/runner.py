"""Runs a graph: on this machine, in one or several processes, or on any Beam runner by name.

The local runner is Beam's FnApiRunner and nothing else: its DirectRunner first tries to download another engine. With
several workers each is a process of `pipeline.worker`, which gets the pipeline's options and dies with its parent.
"""

import contextlib
import logging
import os
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apache_beam as beam
import grpc  # type: ignore[import-untyped]
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import common_urns, python_urns
from apache_beam.portability.api import beam_fn_api_pb2, beam_provision_api_pb2, beam_runner_api_pb2
from apache_beam.runners.job.utils import dict_to_struct
from apache_beam.runners.portability.fn_api_runner.fn_runner import ExtendedProvisionInfo, FnApiRunner
from apache_beam.runners.portability.fn_api_runner.worker_handlers import (
    ExternalWorkerHandler,
    SubprocessSdkWorkerHandler,
    WorkerHandler,
)
from apache_beam.runners.portability.local_job_service import SubprocessSdkWorker
from apache_beam.runners.runner import PipelineResult
from apache_beam.transforms.environments import SubprocessSDKEnvironment

from pipeline.running.engines import LOCAL, options_of
from pipeline.running.relay import marked, unwrap
from pipeline.running.scratch import Scratch
from shards.errors import ByteproxyError

CONNECT_SECONDS = 60.0  # that a worker of a pool has to connect

_deaths: list[ByteproxyError] = []  # of workers of the graph that runs


@WorkerHandler.register_environment(python_urns.SUBPROCESS_SDK, bytes)
class _Worker(SubprocessSdkWorkerHandler):
    """Beam's handler of a worker process, but that one that dies ends the build: Beam's own waits for it for ever."""

    def start_worker(self) -> None:
        """Start the process, and a thread that waits for its end."""
        command, address = self._worker_command_line, self.control_address
        self.worker = SubprocessSdkWorker(command, address, self.provision_info, self.worker_id)
        self.worker_thread = threading.Thread(name="run_worker", target=self._run)
        self.worker_thread.start()

    def _run(self) -> None:
        try:
            self.worker.run()
        except RuntimeError as error:
            text = f"a worker process ended unexpectedly ({error}). If it was killed, memory may have run out"
            _report_death(self.control_conn, f"{text}: build with fewer --workers")


@WorkerHandler.register_environment(common_urns.environments.EXTERNAL.urn, beam_runner_api_pb2.ExternalPayload)
class _PoolWorker(ExternalWorkerHandler):
    """Beam's handler of a worker that a pool starts, but that one that dies, or never comes, ends the build."""

    _closing = False

    def start_worker(self) -> None:
        """Ask the pool for a worker, and wait for its end in a thread."""
        super().start_worker()
        threading.Thread(name="watch worker", target=self._watch, daemon=True).start()

    def close(self) -> None:
        """Let the worker go."""
        self._closing = True
        super().close()

    def _watch(self) -> None:
        reader, deadline = self.control_conn._read_thread, time.monotonic() + CONNECT_SECONDS
        while reader.ident is None and time.monotonic() < deadline and not self._closing:
            time.sleep(0.1)
        if reader.ident is not None:
            reader.join()
        if not self._closing:
            what = "did not connect" if reader.ident is None else "ended unexpectedly"
            place = self._external_payload.endpoint.url
            text = f"a worker of the pool at {place} {what}. If it was killed, memory may have run out"
            _report_death(self.control_conn, f"{text}; see what the pool has printed")


def _report_death(connection: Any, text: str) -> None:
    """A worker is gone: answer in its place what it was asked, and what it will be."""
    died = ByteproxyError(text)
    _deaths.append(died)
    failed, push = marked(died), connection.push
    connection.push = lambda request: _fail(push(request), failed)
    for future in list(connection._futures_by_id.values()):
        _fail(future, failed)


def _fail(future: Any, text: str) -> Any:
    """Answer an instruction that nobody will answer."""
    if future is not None:
        future.set(beam_fn_api_pb2.InstructionResponse(instruction_id=future.instruction_id, error=text))
    return future


class LocalRunner(FnApiRunner):
    """FnApiRunner whose worker processes get the pipeline's options and know their parent."""

    def __init__(self, workers: int, scratch: Scratch) -> None:
        super().__init__()
        self._workers, self._scratch = workers, scratch

    def run_pipeline(self, pipeline: beam.Pipeline, options: PipelineOptions) -> PipelineResult:
        """Run to the end."""
        if self._workers > 1:
            self._default_environment = SubprocessSDKEnvironment.from_command_string(self._worker_command())
            given = options.get_all_options(drop_default=True).items()
            described = {f"beam:option:{name}:v1": _as_flag(value) for name, value in given if value is not None}
            information = beam_provision_api_pb2.ProvisionInfo(
                retrieval_token="unused", pipeline_options=dict_to_struct(described)
            )
            self._provision_info = ExtendedProvisionInfo(information)
        return super().run_pipeline(pipeline, options)

    def _worker_command(self) -> str:
        """A shell command, as Beam wants it; `exec` makes the worker our child rather than the shell's."""
        home = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join([home, *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [sys.executable, "-m", "pipeline.worker", str(os.getpid()), str(self._scratch.workers)]
        return f"PYTHONPATH={shlex.quote(path)} exec {shlex.join(command)}"


def _as_flag(value: Any) -> Any:
    """An option's value for the workers: numbers as text, for a protobuf struct would make 2 into 2.0."""
    if isinstance(value, list):
        return [_as_flag(item) for item in value]
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def run_graph(
    build: Callable[[beam.Pipeline], None], scratch: Scratch, runner: str, workers: int, beam_args: tuple[str, ...]
) -> PipelineResult:
    """Make a pipeline, let `build` fill it, and run it to its end. A worker's error is raised as what it was."""
    quiet_beam()
    options = options_of(runner, beam_args, workers)
    engine = LocalRunner(workers, scratch) if runner == LOCAL else runner
    root = beam.Pipeline(runner=engine, options=options)
    _deaths.clear()
    try:
        with _without_broken_pipes():
            build(root)
            return _finished(root.run())
    except ByteproxyError:
        raise
    except Exception as error:
        cause = _deaths[0] if _deaths else unwrap(error)
        if cause is error:
            raise
        raise cause from None


def _finished(result: PipelineResult) -> PipelineResult:
    """Wait for the end. A job on Dataflow is shown where it can be watched, and ended with us."""
    job = getattr(result, "_job", None)
    if job is not None:
        place = f"jobs/{job.location}/{job.id}?project={job.projectId}"
        print(f"the job runs: https://console.cloud.google.com/dataflow/{place}", file=sys.stderr, flush=True)
    try:
        result.wait_until_finish()
    except KeyboardInterrupt:
        with contextlib.suppress(Exception):
            result.cancel()
        raise
    return result


@contextmanager
def _without_broken_pipes() -> Iterator[None]:
    """Do not print the errors of threads that only say that the other end, a worker, has gone."""
    before = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if not isinstance(arguments.exc_value, grpc.RpcError):
            before(arguments)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


def quiet_beam() -> None:
    """Beam logs whole tracebacks of errors that end as one line, and much else."""
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    logging.getLogger().setLevel(logging.CRITICAL)
