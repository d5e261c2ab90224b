"""The verb `export`: sizes before and after, and where the model lies now."""

from pathlib import Path
from typing import Any

from shards.errors import ByteproxyError
from trainer.flags import parse_options

USAGE = """usage: python -m trainer export RUN --out DIR [--step N] [--dtype float32|bfloat16]

Write a run's model (its latest checkpoint, or that of step N) as a folder that transformers loads without code of ours:

  AutoModelForCausalLM.from_pretrained(DIR)     a Qwen3ForCausalLM over 320 ids: 64 specials, then byte b at 64 + b
  AutoTokenizer.from_pretrained(DIR)            text to bytes, behind <bos> <raw>; what looks like a special stays bytes

Embeddings and heads of compressed views are stripped, and those of --multi-byte. The weights are as trained, float32,
or rounded to bfloat16, half as large. What was written is read back and compared with the run's model: what Qwen3
cannot express is refused by name. A model card, README.md, has the run's figures. DIR is written whole or not at all,
and never over something else.

  python -m trainer export runs/stdlib-demo --out exports/stdlib-demo
"""


def main(arguments: list[str]) -> int:
    """Run the verb; returns the exit code."""
    if {"-h", "--help"} & set(arguments):
        print(USAGE, end="")
        return 0
    if arguments and not arguments[0].startswith("--"):
        arguments = ["--run", *arguments]
    options = parse_options(arguments, {"run": "", "out": "", "step": -1, "dtype": "float32"})
    if not options["run"] or not options["out"]:
        raise ByteproxyError("a run and --out expected: python -m trainer export RUN --out DIR")
    from trainer.export import export

    out = Path(options["out"])
    print(summary(out, export(Path(options["run"]), out, options["step"], options["dtype"])))
    return 0


def summary(out: Path, origin: dict[str, Any]) -> str:
    """Sizes before and after as text."""
    before, after = origin["before"], origin["after"]
    lines = [f"{origin['run']}, step {origin['step']} → {out}, {origin['dtype']}"]
    for name, part in (("before", before), ("after", after)):
        lines.append(f"  {name:<7} {part['parameters']:>13,} parameters  {part['bytes'] / 1e6:>9.2f} MB")
    for view, parameters in list(before["tables"].items())[1:]:
        lines.append(f"  stripped: embedding and head of {view}, {parameters:,} parameters")
    if parameters := before.get("multi_byte"):
        lines.append(f"  stripped: heads for bytes after the next, {parameters:,} parameters")
    return "\n".join(lines)
