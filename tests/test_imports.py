"""The import table of the design: three packages that meet only in the shard set on disk."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STANDARD = set(sys.stdlib_module_names)
OURS = {"pipeline", "shards", "trainer"}
CODEC_LIBRARIES = {"sentencepiece", "zstandard", "brotli", "deflate"}

# Package -> what its modules may import anywhere, besides the standard library and itself.
MAY_IMPORT = {
    "shards": {"numpy", "pyarrow", "xxhash"},
    "shards/codecs": {"numpy", "pyarrow", "xxhash", "shards", *CODEC_LIBRARIES},
    "shards/codecs/windows": {"numpy", "numba"},
    "shards/codecs/neural": {"numpy", "shards", "torch", "safetensors", "numba"},
    "shards/codecs/ngram": {"numpy", "numba", "shards"},
    "pipeline": {
        "shards",
        "apache_beam",
        "numpy",
        "pyarrow",
        "xxhash",
        "identify",
        "magika",
        "rapidfuzz",
        "rensa",
        "tqdm",
        "zstandard",
        "grpc",
        "google",  # protobuf, of which Beam's messages are made
        "jinja2",
        "markupsafe",  # of jinja2
    },
    "trainer": {"shards", "torch", "safetensors", "numpy", "numba", "xxhash"},
    "trainer/memory": {"numba", "llvmlite"},
    "trainer/baselines": {"shards", "numpy", "zstandard", "brotli"},
    "trainer/picture": {"shards", "matplotlib"},
    "trainer/watch": {"shards", "torch", "wandb"},
    "trainer/coder": {"shards", "torch", "numpy", "xxhash", "constriction"},
}


def modules() -> list[Path]:
    return [path for package in sorted(OURS) for path in sorted((ROOT / package).rglob("*.py"))]


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    """The top packages that a module imports; with `top_level_only`, those imported when it is."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(tree.body) if top_level_only else list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_keep_to_the_table(path: Path) -> None:
    place = path.relative_to(ROOT).with_suffix("").as_posix()
    package = place.split("/")[0]
    allowed = next(
        MAY_IMPORT[key] for key in sorted(MAY_IMPORT, key=len, reverse=True) if f"{place}/".startswith(f"{key}/")
    )
    assert imports(path) - STANDARD - {package} <= allowed


def loaded_by(statement: str) -> set[str]:
    """The top packages that are loaded in a fresh process after `statement`."""
    code = f"import sys; {statement}; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_training_and_sampling_load_no_codec_and_no_beam() -> None:
    assert not loaded_by("import trainer.train, trainer.sample") & {"apache_beam", "pipeline", *CODEC_LIBRARIES}


def test_the_planner_loads_no_torch() -> None:
    assert "torch" not in loaded_by(
        "import trainer.plan, trainer.batch, trainer.loader, trainer.recipe, trainer.counts"
    )


def test_the_pipeline_loads_no_torch_and_no_trainer() -> None:
    assert not loaded_by("import pipeline.graph, pipeline.build") & {"torch", "trainer"}


def test_the_shards_load_neither_beam_nor_torch_nor_a_codec() -> None:
    loaded = loaded_by("import shards.reader, shards.writer, shards.verify, shards.inspect, shards.codecs")
    assert not loaded & {"apache_beam", "torch", "pipeline", "trainer", *CODEC_LIBRARIES}
