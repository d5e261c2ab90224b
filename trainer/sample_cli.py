"""The verb `sample`: one prompt, shown byte by byte, or a file of prompts, answered by lines of JSON."""

import base64
import json
import os
import sys
from pathlib import Path
from typing import Any

from shards.errors import ByteproxyError
from trainer.flags import parse_options

USAGE = """usage: python -m trainer sample --run RUN [--prompt TEXT | --prompts FILE] [--length N] [--temperature X]
                               [--top-k N] [--top-p X] [--stop TEXT]… [--seed N] [--step N] [--bytes] [--rows N]

Continue a prompt, byte by byte, until N bytes (default 400) or the end of the document. --temperature 0 takes the
likeliest byte each time; the same seed gives the same text.

  --stop TEXT      end before TEXT, wherever it is drawn; may be given several times
  --bytes          write the bytes as they are, not made fit for a terminal
  --prompts FILE   many prompts (- : standard input): one JSON text a line, or {"prompt": "…"}, or, for any bytes,
                   {"base64": "…"}; or, where the file has NUL bytes, whatever stands between these. Printed is a JSON
                   object for each, in their order: number, text, base64 (the bytes), ended (document, length or stop)
  --rows N         texts worked on at once, by default 4; each comes out as it would alone with the same N

  python -m trainer sample --run runs/stdlib-demo --prompt "def " --temperature 0.7
  printf 'import \\0class \\0' | python -m trainer sample --run runs/stdlib-demo --prompts - --stop $'\\n\\n'
"""

DEFAULTS = {"run": "", "step": -1, "prompt": "def ", "prompts": "", "length": 400, "temperature": 0.8, "top_k": 0,
            "top_p": 0.95, "seed": 0, "bytes": False, "rows": 4}  # fmt: skip


def main(arguments: list[str], no_run: str) -> int:
    """Run the verb; returns the exit code. `no_run`: what to say where no run is named."""
    if {"-h", "--help"} & set(arguments):
        print(USAGE, end="")
        return 0
    rest, stops = take_stops(arguments)
    options = parse_options(rest, DEFAULTS)
    if not options["run"]:
        raise ByteproxyError(no_run)
    if options["rows"] < 1 or options["length"] < 0:
        raise ByteproxyError(f"--rows {options['rows']}, --length {options['length']}: at least 1 and 0 expected")
    prompts = read_prompts(options["prompts"]) if options["prompts"] else [os.fsencode(options["prompt"])]
    from trainer.load import load_model
    from trainer.sample import Drawing, generate_all

    drawing = Drawing(options["temperature"], options["top_k"], options["top_p"], options["seed"], stops)
    model, _, _ = load_model(Path(options["run"]), options["step"], needs_raw=True, dtype="float32")
    events = generate_all(model, prompts, options["length"], drawing, options["rows"])
    if options["prompts"]:
        print_objects(events)
    else:
        show(prompts[0], events, options["bytes"])
    return 0


def show(prompt: bytes, events: Any, as_bytes: bool) -> None:
    """The prompt and what continues it, as it comes."""
    from trainer.sample import Display

    if as_bytes:
        sys.stdout.buffer.write(prompt)
        for _, data, _ in events:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        return
    display = Display()
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    print(display.feed(prompt), end="", flush=True)
    for _, data, _ in events:
        print(display.feed(data), end="", flush=True)
    print(display.feed(b"", final=True))


def print_objects(events: Any) -> None:
    """A line of JSON for each prompt, in their order, as soon as it and those before it are done."""
    made: dict[int, bytes] = {}
    done: dict[int, str] = {}
    shown = 0
    for number, data, ended in events:
        made[number] = made.get(number, b"") + data
        if ended:
            done[number] = ended
        while shown in done:
            data, how = made.pop(shown), done.pop(shown)
            body = {"number": shown, "text": data.decode("utf-8", "replace")}
            print(json.dumps(body | {"base64": base64.b64encode(data).decode(), "ended": how}), flush=True)
            shown += 1


def take_stops(arguments: list[str]) -> tuple[list[str], tuple[bytes, ...]]:
    """The arguments without `--stop TEXT` and `--stop=TEXT`, and the texts of these as bytes."""
    rest, stops, waiting = [], [], list(arguments)
    while waiting:
        name, equals, text = waiting.pop(0).partition("=")
        if name != "--stop":
            rest.append(name + equals + text)
            continue
        if not equals and not waiting:
            raise ByteproxyError("--stop: a value expected after it")
        stops.append(os.fsencode(text if equals else waiting.pop(0)))
    return rest, tuple(stops)


def read_prompts(place: str) -> list[bytes]:
    """The prompts of a file, or of standard input: between NULs where there are any, else one JSON value a line."""
    data = sys.stdin.buffer.read() if place == "-" else Path(place).read_bytes()
    if b"\0" in data:
        parts = data.split(b"\0")
        return parts if parts[-1] else parts[:-1]
    return [
        _prompt(line, f"{place}, line {number}") for number, line in enumerate(data.splitlines(), 1) if line.strip()
    ]


def _prompt(line: bytes, where: str) -> bytes:
    try:
        value = json.loads(line)
        if isinstance(value, dict) and value.keys() == {"base64"}:
            return base64.b64decode(value["base64"], validate=True)
        text = value["prompt"] if isinstance(value, dict) and value.keys() == {"prompt"} else value
        return text.encode()  # type: ignore[no-any-return]
    except (ValueError, AttributeError, TypeError):
        raise ByteproxyError(
            f'{where}: {line[:60]!r} found, a JSON text, {{"prompt": "…"}} or {{"base64": "…"}} expected, '
            "or NUL bytes between prompts"
        ) from None
