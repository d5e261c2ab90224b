"""Takes every step of a translated graph out of its pickle, as a worker would, and tells what that has imported.

`python -I unpickle.py FILE...` in the workers' environment. Prints JSON: the steps' classes, and the top packages that
were loaded or that a module of ours imports anywhere, each with its distribution, or null if it has none here.
"""

import ast
import json
import sys
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

from apache_beam.internal import pickler
from apache_beam.portability import common_urns, python_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.worker import bundle_processor  # noqa: F401 - all that a worker knows

OURS = ("pipeline", "shards")


def functions_of(pipeline: Any) -> dict[str, str]:
    """Name of the step -> class of the function in its pickle."""
    found = {}
    for transform in pipeline.components.transforms.values():
        spec = transform.spec
        if spec.urn == common_urns.primitives.PAR_DO.urn:
            payload = beam_runner_api_pb2.ParDoPayload.FromString(spec.payload)
            if payload.do_fn.urn == python_urns.KEY_WITH_NONE_DOFN:  # Beam's own, by name
                continue
            assert payload.do_fn.urn == python_urns.PICKLED_DOFN_INFO
            found[transform.unique_name] = type(pickler.loads(payload.do_fn.payload)[0]).__name__
        elif spec.urn in (common_urns.composites.COMBINE_PER_KEY.urn, common_urns.composites.COMBINE_GLOBALLY.urn):
            combine = beam_runner_api_pb2.CombinePayload.FromString(spec.payload).combine_fn
            assert combine.urn == python_urns.PICKLED_COMBINE_FN
            found[transform.unique_name] = type(pickler.loads(combine.payload)).__name__
    return found


def imported_by_us() -> set[str]:
    """Top packages that our modules import, at their head or within a function."""
    names: set[str] = set()
    for package in OURS:
        for file in Path(str(sys.modules[package].__file__)).parent.rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    names |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    names.add(node.module.partition(".")[0])
    return names


def main(files: list[str]) -> None:
    before = set(sys.modules)
    functions: dict[str, str] = {}
    for file in files:
        functions |= functions_of(beam_runner_api_pb2.Pipeline.FromString(Path(file).read_bytes()))
    loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
    owners = packages_distributions()
    known = {*sys.stdlib_module_names, "__main__", "__mp_main__"}
    names = sorted(n for n in (loaded | imported_by_us()) - known if not n.startswith("_sysconfigdata"))
    print(json.dumps({"functions": functions, "packages": {name: (owners.get(name) or [None])[0] for name in names}}))


if __name__ == "__main__":
    main(sys.argv[1:])
