"""The file that says what is compared: a TOML of sizes, arms, seeds and marks. Whatever it gets wrong is named.

    seeds = [0, 1, 2]
    translate = 200             # held-out segments that each trained run translates from its views; 0: none
    [settings]                  # of every run: keys of `python -m trainer train --help`
    [sizes.small]               # a body, and the marks at which its runs end; `seeds` restrict it
    width = 128
    flops = [1e14, 2e14]        # training FLOPs; each mark is a run of its own, decayed to its end
    bytes = [16e6]              # bytes of text trained on: the second table
    [arms.bytes]                # a recipe; `seeds`, `sizes`, `flops` and `bytes` restrict it
    mode = "bytes"
    [views.neural]              # what encoding costs: FLOPs a byte of text, or the preset of the codec's LM
    encode = "lm-3m"

Settings start from the defaults of the fields, not from a preset's, but for those in DEFAULTS.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shards.errors import ByteproxyError
from trainer.config import names
from trainer.flags import known_key, load_toml
from trainer.presets import PRESETS

UNITS = ("flops", "bytes")
BODY = ("width", "layers", "heads", "kv_heads", "head_dim", "mlp", "qk_norm", "rope_theta")
NOT_SET = ("shards", "run", "preset", "seed", "steps")  # the driver's own
DEFAULTS = {"schedule": "wsd", "decay": 0.4, "lr_floor": 0.02, "eval_every": 0}
_TOP = ("shards", "against", "seeds", "translate", "settings", "sizes", "arms", "views", "machine")


@dataclass(frozen=True)
class Size:
    """A transformer body and the marks of its runs, by unit. `seeds`: the only ones of its arms' seeds, where given."""

    name: str
    settings: Mapping[str, Any]
    marks: Mapping[str, tuple[float, ...]]
    seeds: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Arm:
    """A recipe: settings over those of all runs, for some of the seeds, the sizes and, by unit, of their marks."""

    name: str
    settings: Mapping[str, Any]
    seeds: tuple[int, ...]
    sizes: tuple[str, ...]
    marks: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def runs_to(self, size: Size, unit: str, mark: float) -> bool:
        """Whether this mark of a size is one of its own."""
        return size.name in self.sizes and mark in self.marks.get(unit, (mark,))


@dataclass(frozen=True)
class ViewCost:
    """What is known of a view without a set, for a dry run, and what its codec's encoding costs."""

    encode: float = 0.0  # FLOPs a byte of text
    alphabet: int = 0
    bytes_per_symbol: float = 3.0


@dataclass(frozen=True)
class Machine:
    """What hours are estimated by: FLOPs a second at most, and the part of them that training gets."""

    name: str = ""
    flops_per_second: float = 0.0
    mfu: float = 1.0


@dataclass(frozen=True)
class PlanFile:
    """A whole plan. `against`: the arm that the others are held against."""

    name: str
    shards: str
    against: str
    settings: Mapping[str, Any]
    sizes: tuple[Size, ...]
    arms: tuple[Arm, ...]
    views: Mapping[str, ViewCost] = field(default_factory=dict)
    machine: Machine = Machine()
    translate: int = 0


def read_plan(path: Path) -> PlanFile:
    """Raises ByteproxyError that names the file, the key, and what was expected."""
    body = _known(load_toml(path, "plan"), _TOP, str(path))
    sizes, arms = _tables(body, "sizes", path), _tables(body, "arms", path)
    if not sizes or not arms:
        raise ByteproxyError(f"{path}: no [{'arms' if sizes else 'sizes'}.NAME] found, at least one expected")
    seeds = _seeds(body.get("seeds", [0]), f"{path}: seeds")
    against = body.get("against", "bytes" if "bytes" in arms else next(iter(arms)))
    if against not in arms:
        raise ByteproxyError(f"{path}: against = {against!r} found, one of the arms {', '.join(arms)} expected")
    found_sizes = tuple(_size(name, table, path) for name, table in sizes.items())
    found_arms = tuple(_arm(name, table, seeds, found_sizes, path) for name, table in arms.items())
    for size in found_sizes:
        if not any(size.name in arm.sizes and set(size.seeds or arm.seeds) & set(arm.seeds) for arm in found_arms):
            raise ByteproxyError(f"{path}: [sizes.{size.name}]: no arm has a run of this size with one of its seeds")
    return PlanFile(
        path.stem, _text(body, "shards", path), against, DEFAULTS | _settings(_table(body, "settings", path), path,
        "[settings]"), found_sizes, found_arms,
        {name: _view(name, table, path) for name, table in _tables(body, "views", path).items()},
        _machine(_table(body, "machine", path), path), _count(body, "translate", path),
    )  # fmt: skip


def _size(name: str, table: dict[str, Any], path: Path) -> Size:
    place = f"{path}: [sizes.{name}]"
    marks = {unit: _marks(table.get(unit, []), f"{place} {unit}") for unit in UNITS}
    if not any(marks.values()):
        raise ByteproxyError(f"{place}: no mark found; flops = [1e14, …] or bytes = [16e6, …] expected")
    rest = {key: value for key, value in table.items() if key not in (*UNITS, "seeds")}
    settings = _settings(rest, path, f"[sizes.{name}]", (*UNITS, "seeds"))
    return Size(name, settings, marks, _seeds(table["seeds"], f"{place} seeds") if "seeds" in table else None)


def _arm(name: str, table: dict[str, Any], seeds: tuple[int, ...], sizes: Sequence[Size], path: Path) -> Arm:
    place, there = f"{path}: [arms.{name}]", [size.name for size in sizes]
    mine = table.get("sizes", there)
    if not isinstance(mine, list) or not mine or (unknown := [size for size in mine if size not in there]):
        shown = ", ".join(map(str, unknown)) if isinstance(mine, list) and mine else repr(mine)
        raise ByteproxyError(f"{place} sizes: {shown} found, of the sizes {', '.join(there)} expected")
    marks = {unit: _marks(table[unit], f"{place} {unit}") for unit in UNITS if unit in table}
    for unit, found in marks.items():
        have = {mark for size in sizes if size.name in mine for mark in size.marks[unit]}
        if missing := [f"{mark:g}" for mark in found if mark not in have]:
            marks_shown = ", ".join(f"{mark:g}" for mark in sorted(have)) or "none"
            raise ByteproxyError(f"{place} {unit}: {', '.join(missing)} found, of its sizes' {marks_shown} expected")
    rest = {key: value for key, value in table.items() if key not in ("seeds", "sizes", *UNITS)}
    if body := [key for key in rest if key.replace("-", "_") in BODY]:
        raise ByteproxyError(
            f"{place} {', '.join(body)}: arms are compared with the same body; put it into [sizes.NAME], or, for all "
            "runs, into [settings]"
        )
    settings = _settings(rest, path, f"[arms.{name}]", ("seeds", "sizes", *UNITS))
    return Arm(name, settings, _seeds(table.get("seeds", list(seeds)), f"{place} seeds"), tuple(mine), marks)


def _view(name: str, table: dict[str, Any], path: Path) -> ViewCost:
    place = f"{path}: [views.{name}]"
    table = _known(table, ("encode", "alphabet", "bytes_per_symbol"), place)
    encode = table.get("encode", 0)
    if isinstance(encode, str):
        from trainer.compare.flops import forward_flops_per_byte

        if encode not in PRESETS:
            raise ByteproxyError(
                f"{place} encode: {encode!r} found, FLOPs a byte or one of {', '.join(PRESETS)} expected"
            )
        encode = forward_flops_per_byte(encode)
    cost = ViewCost(encode, table.get("alphabet", 0), table.get("bytes_per_symbol", 3.0))
    _numbers(vars(cost), place)
    if not cost.bytes_per_symbol:
        raise ByteproxyError(f"{place} bytes_per_symbol: 0 found, more expected")
    return cost


def _machine(table: dict[str, Any], path: Path) -> Machine:
    place = f"{path}: [machine]"
    table = _known(table, ("name", "flops_per_second", "mfu"), place)
    _numbers({key: value for key, value in table.items() if key != "name"}, place)
    return Machine(**table)


def _settings(table: dict[str, Any], path: Path, place: str, more: tuple[str, ...] = ()) -> dict[str, Any]:
    return _known(table, (*(names() - set(NOT_SET)), *more), f"{path}: {place}")


def _known(table: Mapping[str, Any], known: tuple[str, ...], place: str) -> dict[str, Any]:
    """The table with its keys spelt as ours are; refuses those that are not known."""
    for key in table:
        if key.replace("-", "_") in NOT_SET and key not in known:
            raise ByteproxyError(f"{place}: key {key!r} is the driver's to set; see --help for what a plan says")
        known_key(key, f"{place}: key {key!r}", known)
    return {key.replace("-", "_"): value for key, value in table.items()}


def _table(body: Mapping[str, Any], key: str, path: Path) -> dict[str, Any]:
    table = body.get(key, {})
    if not isinstance(table, dict):
        raise ByteproxyError(f"{path}: {key} = {table!r} found, a table [{key}] expected")
    return table


def _tables(body: Mapping[str, Any], key: str, path: Path) -> dict[str, dict[str, Any]]:
    tables = _table(body, key, path)
    for name, table in tables.items():
        if not isinstance(table, dict) or not re.fullmatch(r"[\w.-]+", name):
            raise ByteproxyError(
                f"{path}: {key}.{name} found, tables [{key}.NAME] expected; NAME of letters, digits, -, _"
            )
    return tables


def _text(body: Mapping[str, Any], key: str, path: Path) -> str:
    value = body.get(key, "")
    if not isinstance(value, str):
        raise ByteproxyError(f"{path}: {key} = {value!r} found, a text expected")
    return value


def _count(body: Mapping[str, Any], key: str, path: Path) -> int:
    value = body.get(key, 0)
    if type(value) is not int or value < 0:
        raise ByteproxyError(f"{path}: {key} = {value!r} found, a whole number from 0 expected")
    return value


def _seeds(found: Any, place: str) -> tuple[int, ...]:
    if not isinstance(found, list) or not found or not all(type(seed) is int for seed in found):
        raise ByteproxyError(f"{place} = {found!r} found, a list of whole numbers expected")
    return tuple(dict.fromkeys(found))


def _marks(found: Any, place: str) -> tuple[float, ...]:
    if not isinstance(found, list) or not all(type(mark) in (int, float) and mark > 0 for mark in found):
        raise ByteproxyError(f"{place} = {found!r} found, a list of numbers over 0 expected")
    return tuple(sorted({float(mark) for mark in found}))


def _numbers(values: Mapping[str, Any], place: str) -> None:
    for key, value in values.items():
        if type(value) not in (int, float) or not value >= 0:
            raise ByteproxyError(f"{place} {key}: {value!r} found, a number from 0 expected")
