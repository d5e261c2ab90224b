"""Kept compiled code is forgotten when the sources that went into it have changed, and only then."""

from pathlib import Path

from shards.compiled import _forget


def test_code_of_other_sources_is_forgotten_once(tmp_path: Path) -> None:
    kept = ["place.plan_rows-46.py311.nbi", "place.plan_rows-46.py311.1.nbc", "fill.fill_rows-30.py311.nbi"]
    names = ("place", "fill", "recipe")
    others = ["place.cpython-311.pyc", "plan.cpython-311.pyc", "strange.function-1.py311.nbi"]
    for name in kept + others:
        (tmp_path / name).touch()
    _forget(tmp_path, names, "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, "byteproxy-new.stamp"])
    (tmp_path / kept[0]).touch()
    _forget(tmp_path, names, "new")
    assert (tmp_path / kept[0]).exists()
    _forget(tmp_path, names, "newer")
    assert not (tmp_path / kept[0]).exists() and not (tmp_path / "byteproxy-new.stamp").exists()
