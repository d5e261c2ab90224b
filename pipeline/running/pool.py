"""A pool of workers for Beam's portable runners: it starts a worker process whenever a job asks for one.

Run as `python -m pipeline.worker pool PORT`, in an environment with byteproxy[pipeline]; the build is then given
`--environment_type=EXTERNAL --environment_config=localhost:PORT`. Beam has such a pool too, but its workers are what
`python` comes first on PATH, get no pipeline options, outlive a killed pool, and are offered to the whole network. A
worker runs the code that a job sends to it, so this pool listens on this machine alone.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from concurrent import futures
from typing import Any

import grpc  # type: ignore[import-untyped]
from apache_beam.portability.api import (
    beam_fn_api_pb2,
    beam_fn_api_pb2_grpc,
    beam_provision_api_pb2,
    beam_provision_api_pb2_grpc,
    endpoints_pb2,
)
from google.protobuf import json_format, text_format  # type: ignore[import-untyped]

from shards.errors import ByteproxyError

CONNECT_SECONDS = 20.0


class Pool(beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolServicer):
    """Beam's service of a worker pool. Workers are processes of this interpreter, and die with this one."""

    def StartWorker(self, request: Any, context: Any) -> Any:  # noqa: N802 - Beam's name
        """Start a process for one worker of a job."""
        try:
            start_worker(request)
        except (grpc.RpcError, OSError) as error:
            return beam_fn_api_pb2.StartWorkerResponse(error=f"the pool could not start a worker: {error}")
        return beam_fn_api_pb2.StartWorkerResponse()

    def StopWorker(self, request: Any, context: Any) -> Any:  # noqa: N802 - Beam's name
        """Workers end by themselves when the job closes their connection."""
        return beam_fn_api_pb2.StopWorkerResponse()


def start_worker(request: Any) -> None:
    """Ask the job for its options and start a worker with them, in the environment that Beam's worker expects."""
    with grpc.insecure_channel(request.provision_endpoint.url) as channel:
        stub = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel)
        asked = beam_provision_api_pb2.GetProvisionInfoRequest()
        metadata = (("worker_id", request.worker_id),)
        info = stub.GetProvisionInfo(asked, timeout=CONNECT_SECONDS, metadata=metadata).info
    environment = os.environ | {
        "WORKER_ID": request.worker_id,
        "CONTROL_API_SERVICE_DESCRIPTOR": _descriptor(request.control_endpoint.url),
        "LOGGING_API_SERVICE_DESCRIPTOR": _descriptor(request.logging_endpoint.url),
        "PIPELINE_OPTIONS": json_format.MessageToJson(info.pipeline_options),
        "RUNNER_CAPABILITIES": " ".join(info.runner_capabilities),
    }
    command = [sys.executable, "-m", "pipeline.worker", str(os.getpid())]
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)
    threading.Thread(target=process.wait, name=f"wait for {request.worker_id}", daemon=True).start()


def serve(port: int) -> None:
    """Serve until the process is ended. Prints the address once it listens; port 0 takes a free one."""
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8), options=[("grpc.so_reuseport", 0)])
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(Pool(), server)
    with contextlib.suppress(RuntimeError):  # what newer versions of gRPC raise
        if bound := server.add_insecure_port(f"localhost:{port}"):
            server.start()
            print(f"workers at localhost:{bound}", flush=True)
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
            server.wait_for_termination()
            return
    raise ByteproxyError(f"port {port} is taken: choose another, or 0 for a free one")


def _descriptor(url: str) -> str:
    return text_format.MessageToString(endpoints_pb2.ApiServiceDescriptor(url=url))
