"""The training loop, from config to final table, top to bottom. `train(config)` can be called from a test.

RUN/
  config.json         every setting, resolved          metrics.jsonl    one object a step
  checkpoints/        the last few, see checkpoint.py  result.json      the final figures; its presence says: done
  guard-<step>.json   of a run that guard.py stopped: what that step read
On the CPU a run is a function of its config and the shard set alone, through any number of kills and resumes.
"""

import dataclasses
import json
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shards.errors import ByteproxyError
from shards.manifest import write_atomically
from shards.reader import ShardSet
from trainer import baselines, checkpoint, compose, evaluate
from trainer.batch import Batch
from trainer.config import Config, describe_batch, differences
from trainer.distributed import ALONE, Ranks, joined
from trainer.feed import rows_of
from trainer.guard import Guard, Unsound, with_report
from trainer.loader import Loader
from trainer.loss import nats_by_view
from trainer.metrics import Metrics
from trainer.mixture import Mixture, describe, open_mixture, parse_weights
from trainer.model import Model, table_rows
from trainer.multibyte import nats_ahead
from trainer.optim import (
    clip_gradients,
    learning_rate,
    load_optimizer_tensors,
    make_optimizers,
    optimizer_tensors,
    set_learning_rate,
)
from trainer.plan import PlanState
from trainer.report import Console, Totals, final_table
from trainer.runtime import Compilation, allocator, resolve, set_up_torch
from trainer.sample import Drawing, sample_text
from trainer.saving import Saver
from trainer.sharding import build, quiet, whole
from trainer.watch import Watchers

RESULT = "result.json"
SAMPLE_BYTES = 400


def train(config: Config, score: bool = True) -> dict[str, Any]:
    """Train to the last step, from the run's latest checkpoint if there is one; evaluate; return the figures.

    Without `score` the figures are those of training alone: val, other compressors and a sample are left out.
    A SIGINT or SIGTERM saves a checkpoint and returns early with its number under `signal`. Under `torchrun` each
    process calls this; rank 0 alone writes and returns the figures.
    """
    if not config.shards or not config.run:
        raise ByteproxyError("--shards and --run: a folder each expected")
    mixture, run = open_mixture(config), Path(config.run)
    with joined(resolve(config, {}).device) as ranks, ranks.first_only(checkpoint.locked(run)):
        state = latest_state(run)
        config = resolve(config, state["config"] if state else {})
        describe_batch(config, ranks.ranks)  # refuses what does not divide before anything is written
        if state:
            check_resumable(run, state, config, mixture.digests)
        ranks.wait()  # until all have read the state that the first will replace
        if (run / RESULT).exists() and state and state["step"] == config.steps:
            return announce_finished(run) if ranks.is_first else {}
        if ranks.is_first:
            (run / RESULT).unlink(missing_ok=True)
            write_atomically(run / "config.json", json.dumps(dataclasses.asdict(config), indent=1).encode() + b"\n")
        set_up_torch(config)
        return _train(config, run, mixture, state, ranks, score)


def _train(
    config: Config, run: Path, mixture: Mixture, state: dict[str, Any] | None, ranks: Ranks, score: bool
) -> dict[str, Any]:
    views = ["raw", *(view.name for view in mixture.views)]
    weights_V = torch.tensor(parse_weights(config.weights, views), device=config.device)
    tables = table_rows([view.alphabet for view in mixture.views])
    spellings = compose.spellings_of(mixture.first, mixture.views, config.compose)
    model, net = build(config, tables, ranks, spellings)
    optimizers = make_optimizers(model, config)
    totals = Totals.empty(views)
    if state:
        restore(checkpoint.folder_of(run, state["step"]), model, optimizers)
        totals = Totals.from_json(state["totals"])
    step, planned = (state["step"], PlanState.from_json(state["planner"])) if state else (0, None)
    console = Console(config, views, totals, quiet=not ranks.is_first)
    console.opening(run, tables, step, state["torch"] if state else torch.__version__)
    console.say([describe_batch(config, ranks.ranks), *describe(mixture, config)])

    watchers = Watchers(config, run, step) if ranks.is_first else None

    def save() -> None:
        metrics.sync()  # the lines of the steps before the state that says they are done
        saver.save(step, dict(model.named_parameters()), optimizer_tensors(model, optimizers), {
            "planner": planned.to_json() if planned else None, "totals": totals.to_json(), "views": views,
            "tables": tables, "config": dataclasses.asdict(config), "digests": mixture.digests,
            "torch": torch.__version__, **({"spellings": compose.to_json(spellings)} if spellings else {}),
        })  # fmt: skip

    with (
        Loader(mixture.sources, mixture.views, config, planned, config.prefetch, rank=ranks.rank, ranks=ranks.ranks,
               allocate=allocator(config), report=console.quarantined, shares=mixture.shares) as batches,
        Metrics(run, views, step, Guard(views, config.spike), not ranks.is_first, watchers) as metrics,
        Saver(run, config, ranks) as saver,
        stop_signals() as received,
    ):  # fmt: skip
        console.begin()
        compilation = Compilation(config)
        sound = planned  # the state after the last step that the guard has seen
        for batch, planned in batches:
            rate = learning_rate(config, step)
            set_learning_rate(optimizers, rate)
            stopping = add_up(batch, bool(received), ranks)
            with compilation.phase("training"):
                nats = backward(model, batch, config.pass_rows, ranks, net, weights_V)
            norm = clip_gradients(model, config.clip)
            for optimizer in optimizers:
                optimizer.step()
            model.zero_grad(set_to_none=True)

            step += 1
            totals.add(batch)
            plain = {"step": step, "lr": rate, "documents": batch.documents, "unpaired": batch.unpaired}
            plain |= {"left": batch.left} | console.tick() | {"waited": round(batches.waited, 6)} | batch.set_shares()
            metrics.add(plain, batch.symbols, batch.raw_bytes, torch.cat((nats, norm[None])))
            last = step == config.steps
            saving = last or stopping or (config.checkpoint_every and step % config.checkpoint_every == 0)
            looking = not last and config.eval_every and step % config.eval_every == 0 and config.mode != "tokens"
            scored = whole(model, ranks) if looking else model
            if ranks.is_first and (looking or saving or step % config.log_every == 0 or step == 1):
                held_out = None
                if looking:
                    val = mixture.first.split("val")
                    with compilation.phase("evaluation"):
                        found = evaluate.score(scored, val, config.pass_rows, config.context, config.eval_bytes)
                    held_out = {"val_bpb": found.bits_per_byte}
                try:
                    console.line(metrics.flush(held_out))  # before `save`: no unsound step's weights are kept
                except Unsound as unsound:
                    batches.close()  # from here on this thread alone reads the sets
                    planner = batches.new_planner()
                    raise with_report(unsound, run, views, planner, sound or planner.initial()) from None
                sound = planned
            if saving:
                save()
            if looking or saving:
                ranks.wait()
                console.begin()
            if stopping:
                saver.wait()
                console.stopped(run, step)
                return {"run": str(run), "step": step, "signal": int(received[0]) if received else signal.SIGTERM}
        unfinished = batches.planner.unfinished(planned) if planned else []
    model = whole(model, ranks)
    if not ranks.is_first:
        ranks.wait()
        return {}
    with torch.compiler.set_stance("force_eager"):  # other shapes than the loop's: not worth compiling for
        result = finish(config, run, model, mixture.first, totals, step, unfinished, score)
    ranks.wait()
    return result


def add_up(batch: Batch, stop: bool, ranks: Ranks) -> bool:
    """Make the batch's counts those of all ranks; returns whether any rank was asked to stop."""
    if ranks.ranks == 1:
        return stop
    counts = torch.from_numpy(np.concatenate((batch.symbols, batch.raw_bytes, [stop])))
    ranks.sum([counts])
    views = len(batch.symbols)
    batch.symbols, batch.raw_bytes = counts[:views].numpy(), counts[views : 2 * views].numpy()
    return bool(counts[-1])


def backward(
    model: Model, batch: Batch, micro_rows: int, ranks: Ranks = ALONE, net: nn.Module | None = None,
    weights_V: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Accumulate the gradients of nats over counted targets of the whole batch; returns nats by view, (V + 1,).

    With `--multi-byte` two values follow for each further head, its nats and their number. `net`: what stands for the
    model's forward pass where several ranks share it. `weights_V`: of the views, in the gradients alone; of raw's the
    further heads too.
    """
    net = net or model
    count, weight = max(int(batch.symbols.sum()), 1), model.config.multi_byte_weight
    if weights_V is None:
        weights_V = torch.ones(len(model.tables), device=model.norm.weight.device)
    total = torch.zeros(len(model.tables) + 2 * len(model.multi_byte), device=model.norm.weight.device)
    most = len(batch.ids_RT) if ranks.ranks == 1 else -(-model.config.batch_rows // ranks.ranks)
    passes = -(-most // micro_rows)  # the same number on all ranks, for they meet in each
    for number in range(passes):
        rows = rows_of(batch, model, number * micro_rows, micro_rows)
        with quiet(net, last=number == passes - 1):
            x_NW = net(rows.ids_RT, rows.views_RT, rows.positions_RT, rows.attend).flatten(0, 1)
            nats_V = nats_by_view(model, x_NW, rows.views_N, rows.targets_N, rows.counted_N)
            ahead_H2 = nats_ahead(model, x_NW, rows)
            ahead = weight * weights_V[0] * ahead_H2[:, 0].sum()
            (((weights_V * nats_V).sum() + ahead) * ranks.ranks / count).backward()
        total += torch.cat((nats_V, ahead_H2.flatten())).detach()
    ranks.sum([total])
    return total


def finish(
    config: Config, run: Path, model: Model, shard_set: ShardSet, totals: Totals, step: int, unfinished: list[Any],
    score: bool,
) -> dict[str, Any]:  # fmt: skip
    """Evaluate on all of val, sample, write result.json, print the table. `unfinished`: documents left half done."""
    result: dict[str, Any] = {"run": str(run), "step": step, "shards": config.shards, "mode": config.mode}
    result["unfinished"] = unfinished
    result |= {"symbols": totals.symbols, "bytes_of_text": totals.raw_bytes, "seconds": round(totals.seconds, 1)}
    if score and config.mode != "tokens":
        val = shard_set.split("val")
        print(f"evaluating on {len(val)} held-out documents, and gzip, zstd, brotli and xz on the same …", flush=True)
        found = evaluate.score(model, val, config.pass_rows, config.context)
        others = baselines.bits_per_byte(shard_set, cache=run)
        result |= {"raw_bpb": found.bits_per_byte, "val_bytes": found.bytes, "val_documents": found.documents}
        result |= {"baselines": others, "prompt": config.prompt}
        result["sample"] = sample_text(model, config.prompt.encode(), SAMPLE_BYTES, Drawing(seed=config.seed))
    write_atomically(run / RESULT, json.dumps(result, indent=1).encode() + b"\n")
    print(final_table(result), flush=True)
    return result


def announce_finished(run: Path) -> dict[str, Any]:
    """Say that there is nothing left to do, with the figures of then."""
    result = json.loads((run / RESULT).read_bytes())
    print(
        f"{run} is done: {result['step']} steps. Give another --run to train again.\n\n{final_table(result)}",
        flush=True,
    )
    return result


def latest_state(run: Path) -> dict[str, Any] | None:
    """state.json of the run's latest checkpoint, if it has one."""
    steps = checkpoint.steps_of(run)
    return checkpoint.read_state(checkpoint.folder_of(run, steps[-1])) if steps else None


def check_resumable(run: Path, state: dict[str, Any], config: Config, digests: dict[str, str]) -> None:
    """Refuse to go on with what would make another run of it."""
    if changed := differences(state["config"], dataclasses.asdict(config)):
        lines = "\n  ".join(changed)
        raise ByteproxyError(
            f"{run} was begun with another config:\n  {lines}\nLeave these away to continue it, or give another --run"
        )
    if changed := [name for name in digests | state["digests"] if state["digests"].get(name) != digests.get(name)]:
        raise ByteproxyError(
            f"{run} was begun on other data: {', '.join(changed)} of {config.shards} differ from its set. "
            "Give that set with --shards, or another --run"
        )


def restore(folder: Path, model: Model, optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Load a checkpoint's weights and optimizer state, checked."""
    parameters = dict(model.named_parameters())
    weights = checkpoint.read_tensors(folder, checkpoint.MODEL, parameters)
    moments = checkpoint.read_tensors(folder, checkpoint.OPTIMIZER, optimizer_tensors(model, optimizers))
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    load_optimizer_tensors(model, optimizers, moments)


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collects the first SIGINT or SIGTERM, to stop between two steps; a second one ends the process at once."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def on_signal(number: int, frame: Any) -> None:
        received.append(number)
        for each in previous:
            signal.signal(each, signal.SIG_DFL)
        os.write(
            2, b"\nstopping after this step, to save a checkpoint; once more to leave at once\n"
        )  # print may be midway

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
