"""Processes of benchmarks: installers, whose failure is told, and measurements, which print JSON as their last line."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class EnvironmentMissing(Exception):
    """An environment could not be installed; the message says why."""


def install(*command: str) -> None:
    """Run a step of an installation. Raises EnvironmentMissing with its last words."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
        raise EnvironmentMissing("; ".join(lines[-2:]) or f"exit status {done.returncode}")


def result_of(command: Sequence[str], folder: Path, variables: Mapping[str, str], limit: float) -> dict[str, Any]:
    """The JSON of a command's last line; what fails, or takes more than `limit` seconds, is a result too: {"error"}."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, cwd=folder, env=variables)
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {limit} s"}
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        errors = [line for line in done.stderr.splitlines() if line.strip()]
        return {"error": errors[-1] if errors else f"exit status {done.returncode}"}
    return json.loads(lines[-1])
