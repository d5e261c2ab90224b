"""The planner's and the collator's compiled code, kept between runs as long as no source of it changes."""

from shards import compiled, schema
from trainer import ahead, fill, memory, place, recipe, specials, start


def forget_stale() -> None:
    """Once a process, before anything compiled is called."""
    compiled.forget_stale(place.plan_rows, (schema, ahead, fill, memory, place, recipe, specials, start))
