"""What a manifest says of how its set was made, where views were added to it later or sets were merged."""

from collections.abc import Mapping
from typing import Any

from shards.manifest import Manifest

ADDED = "added"  # in a manifest's config: the views that were added to the set, as they were asked for
ADD_VIEW = "add view"  # in its stages


def as_built(manifest: Manifest) -> tuple[dict[str, Any], dict[str, int]]:
    """(config, stages) of a set as they were before views were added to it: what the build was asked for."""
    config = {name: value for name, value in manifest.config.items() if name != ADDED}
    built = {f"codec {view['kind']}" for view in config.get("views", [])}
    added = {f"codec {view['kind']}" for view in manifest.config.get(ADDED, [])} - built
    return config, {name: version for name, version in manifest.stages.items() if name not in {ADD_VIEW, *added}}


def both_versions(*libraries: Mapping[str, str]) -> dict[str, str]:
    """Library -> version; where parts of a set were made with several, all of them: `1.1.0, 1.2.0`."""
    found: dict[str, set[str]] = {}
    for versions in libraries:
        for name, version in versions.items():
            found.setdefault(name, set()).update(version.split(", "))
    return {name: ", ".join(sorted(versions)) for name, versions in sorted(found.items())}
