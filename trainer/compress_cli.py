"""The verbs `compress` and `decompress`, and `evaluate --as-compressor`: files in, files out."""

import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shards.errors import ByteproxyError
from shards.manifest import write_atomically
from trainer.flags import parse_options

SUFFIX = ".bpx"

COMPRESS = """usage: python -m trainer compress FILE --run RUN [--step N] [--out FILE] [--lanes N] [--force]

Compress a file with a run's model: its predictions of each next byte, multiplied with those of an order-2 model that
learns from the file itself, drive an arithmetic coder. The file is cut into lanes that go forward together: --lanes N
(default: one for each 8 KiB, at most 256) is faster with more, smaller with fewer. --out is FILE.bpx by default.

Needed to get it back: the same weights, and a machine that computes the same floats (processor, torch version; the
thread count is stored). Both are checked before anything is decoded.

  python -m trainer compress main.c --run runs/stdlib-demo
  python -m trainer decompress main.c.bpx --run runs/stdlib-demo --out main.again.c
"""

DECOMPRESS = """usage: python -m trainer decompress FILE.bpx --run RUN [--step N] [--out FILE] [--force]

Get a file back that `compress` wrote, bit for bit, with the model that it was compressed with. It is written once its
checksum has been compared. --out is the name without .bpx by default; --force writes over an existing file.

  python -m trainer decompress main.c.bpx --run runs/stdlib-demo --out main.again.c
"""


def compress(arguments: list[str]) -> int:
    """The verb `compress`."""
    defaults = {"run": "", "step": -1, "out": "", "lanes": 0, "force": False}
    if (found := _file_and_options(arguments, COMPRESS, defaults)) is None:
        return 0
    source, options = found
    target = _target(options["out"] or f"{source}{SUFFIX}", options["force"])
    data = _read(source)
    packed, nats = compressed(data, Path(options["run"]), options["step"], options["lanes"])
    write_atomically(target, packed)
    print(f"{target}: {len(data):,} → {len(packed):,} bytes, {_rate(len(packed), len(data))}\n{_experts(nats, data)}")
    return 0


def decompress(arguments: list[str]) -> int:
    """The verb `decompress`."""
    defaults = {"run": "", "step": -1, "out": "", "force": False}
    if (found := _file_and_options(arguments, DECOMPRESS, defaults)) is None:
        return 0
    source, options = found
    if not options["out"] and source.suffix != SUFFIX:
        raise ByteproxyError(f"{source}: a name that ends in {SUFFIX} expected, or --out FILE")
    target = _target(options["out"] or str(source.with_suffix("")), options["force"])
    data = decompressed(_read(source), str(source), Path(options["run"]), options["step"])
    write_atomically(target, data)
    print(f"{target}: {len(data):,} bytes, as they were")
    return 0


def compressed(data: bytes, run: Path, step: int, lanes: int) -> tuple[bytes, Any]:
    """A file's bytes compressed, and nats of the model alone, of order 2 alone and of both, (3,)."""
    import torch
    import xxhash

    from trainer import coder, container

    model, origin = _model(run, step)
    if not 0 <= lanes < 1 << 16:
        raise ByteproxyError(f"--lanes {lanes}: from 0 (by itself) to {(1 << 16) - 1} expected")
    lanes = min(lanes, max(len(data), 1)) or coder.lanes_for(model, len(data))
    words, nats = coder.encode(model, data, lanes, _progress("compressing"))
    digest, checksum = coder.model_digest(model), xxhash.xxh3_128_digest(data)
    header = container.Header(
        torch.get_num_threads(), lanes, len(data), digest, checksum, coder.probe(model, lanes), origin
    )
    return container.pack(header, words), nats


def decompressed(packed: bytes, name: str, run: Path, step: int) -> bytes:
    """The bytes that were compressed. Raises ByteproxyError if model, machine or file are not those of then."""
    import torch

    from trainer import coder, container

    header, words = container.unpack(packed, name)
    model, origin = _model(run, step)
    torch.set_num_threads(header.threads)
    if (digest := coder.model_digest(model)) != header.model:
        raise ByteproxyError(
            f"{name}: compressed with model {header.model.hex()[:12]} ({header.origin}); {digest.hex()[:12]} found "
            f"({origin}). Give that one with --run and --step"
        )
    if coder.probe(model, header.lanes) != header.probe:
        raise ByteproxyError(
            f"{name}: the model is right, but this machine computes other floats ({origin}) than the one that "
            f"compressed ({header.origin}). Decompress on that kind of machine, with its version of torch"
        )
    text = coder.decode(model, words, header.length, header.lanes, _progress("decompressing"))
    container.check_text(header, text, name)
    return text


def as_compressor(source: Path, run: Path, step: int, lanes: int) -> dict[str, Any]:
    """Compress a file, decompress it in another process, compare; sizes and seconds, beside the usual compressors."""
    from trainer.baselines import compressors

    data = _read(source)
    begun = time.monotonic()
    packed, nats = compressed(data, run, step, lanes)
    halfway = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        there, back = Path(folder) / f"text{SUFFIX}", Path(folder) / "text"
        there.write_bytes(packed)
        command = [sys.executable, "-m", "trainer", "decompress", str(there), "--run", str(run), "--step", str(step)]
        done = subprocess.run([*command, "--out", str(back)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise ByteproxyError(f"{source}: another process could not decompress it: {done.stderr.strip()}")
        if back.read_bytes() != data:
            raise ByteproxyError(f"{source}: another process got other bytes back")
    ended = time.monotonic()
    sizes = {"this model": len(packed)} | {name: len(method(data)) for name, method in compressors().items()}
    alone = {name: float(nat) / math.log(2) / 8 for name, nat in zip(("model", "order 2", "both"), nats, strict=True)}
    return {"file": str(source), "bytes": len(data), "sizes": sizes, "experts": alone, "exact": True,
            "seconds": {"compress": round(halfway - begun, 1), "decompress": round(ended - halfway, 1)}}  # fmt: skip


def compressor_table(found: dict[str, Any]) -> str:
    """What `as_compressor` found, as text."""
    count, seconds, alone = found["bytes"], found["seconds"], found["experts"]
    lines = [f"{found['file']}: {count:,} bytes, compressed, and decompressed by another process to the same bytes:"]
    lines += [f"  {name:<12} {size:>12,} bytes  {_rate(size, count)}" for name, size in found["sizes"].items()]
    lines.append("  what it is made of, in bits per byte: " + ", ".join(
        f"{name} {8 * size / max(count, 1):.3f}" for name, size in alone.items()))  # fmt: skip
    return "\n".join([*lines, f"  compressed in {seconds['compress']} s, decompressed in {seconds['decompress']} s"])


def _model(run: Path, step: int) -> tuple[Any, str]:
    """The model, its activations in float32, and where it is from."""
    import torch

    from trainer.load import load_model

    model, state, _ = load_model(run, step, needs_raw=True)
    model.dtype = torch.float32  # the same on processors with and without bfloat16
    model.eval()
    kind = torch.backends.cpu.get_cpu_capability() if model.config.device == "cpu" else torch.cuda.get_device_name()
    return (
        model,
        f"{run.name} step {state['step']}; torch {torch.__version__}, {kind}, {torch.get_num_threads()} threads",
    )


def _file_and_options(arguments: list[str], usage: str, defaults: dict[str, Any]) -> tuple[Path, dict[str, Any]] | None:
    """The file that comes first, and the flags; None after printing the usage."""
    if {"-h", "--help"} & set(arguments):
        print(usage, end="")
        return None
    if not arguments or arguments[0].startswith("--"):
        raise ByteproxyError("the file comes first; for instance: compress main.c --run runs/stdlib-demo")
    options = parse_options(arguments[1:], defaults)
    if not options["run"]:
        raise ByteproxyError("--run: the folder of a run expected")
    return Path(arguments[0]), options


def _target(name: str, force: bool) -> Path:
    path = Path(name)
    if path.exists() and not force:
        raise ByteproxyError(f"{path} exists; give another --out, or --force to write over it")
    return path


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ByteproxyError(f"{path}: cannot be read ({error.strerror})") from None


def _rate(size: int, count: int) -> str:
    return f"{8 * size / max(count, 1):.3f} bits per byte, {size / max(count, 1):.1%}"


def _experts(nats: Any, data: bytes) -> str:
    bits = [float(nat) / math.log(2) / max(len(data), 1) for nat in nats]
    return "  model alone {:.3f}, order 2 alone {:.3f}, both {:.3f} bits per byte".format(*bits)


def _progress(verb: str) -> Callable[[int, int], None] | None:
    """A line that is rewritten, on a terminal only."""
    if not sys.stderr.isatty():
        return None
    begun = time.monotonic()

    def show(done: int, steps: int) -> None:
        if done % 16 == 0 or done == steps:
            left = (time.monotonic() - begun) * (steps - done) / done
            end = "\n" if done == steps else ""
            print(f"\r{verb} {done / steps:4.0%}, {left:5.0f} s left ", end=end, file=sys.stderr, flush=True)

    return show
