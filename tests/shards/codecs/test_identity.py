"""A codec is what its folder says: the same sample, the same folder; the same folder, the same symbols, anywhere."""

import copy
import hashlib
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from shards.codecs import Codec, codec_class, load_codec
from shards.errors import ByteproxyError
from shards.hashing import folder_digest

ENCODE_ELSEWHERE = """
import hashlib, sys
from pathlib import Path
from shards.codecs import load_codec
codec, state = load_codec(Path(sys.argv[1])), hashlib.sha256()
for path in sys.argv[2:]:
    for part in codec.encode(Path(path).read_bytes()):
        state.update(part.tobytes())
print(state.hexdigest())
"""


def digest(codec: Codec, documents: list[bytes]) -> str:
    state = hashlib.sha256()
    for raw in documents:
        for part in codec.encode(raw):
            state.update(part.tobytes())
    return state.hexdigest()


def test_fitting_twice_gives_the_same_folder(codec: Codec, code: list[bytes], tmp_path: Path) -> None:
    codec.save(tmp_path / "first")
    type(codec).fit(iter(code), **codec.settings).save(tmp_path / "second")
    assert folder_digest(tmp_path / "first") == folder_digest(tmp_path / "second")


def test_a_loaded_codec_gives_the_same_symbols_and_saves_the_same_folder(
    codec: Codec, code: list[bytes], tmp_path: Path
) -> None:
    codec.save(tmp_path / "a")
    loaded = load_codec(tmp_path / "a")
    loaded.save(tmp_path / "b")
    assert type(loaded) is type(codec) and loaded.settings == codec.settings
    assert (loaded.width, loaded.alphabet, loaded.anchor_gap) == (codec.width, codec.alphabet, codec.anchor_gap)
    assert digest(loaded, code) == digest(codec, code)
    assert folder_digest(tmp_path / "a") == folder_digest(tmp_path / "b")


def test_a_fresh_process_gives_the_same_symbols(codec: Codec, code: list[bytes], tmp_path: Path) -> None:
    codec.save(tmp_path / "codec")
    paths = [tmp_path / f"{n}" for n in range(12)]
    for path, raw in zip(paths, code, strict=False):
        path.write_bytes(raw)
    command = [sys.executable, "-c", ENCODE_ELSEWHERE, tmp_path / "codec", *paths]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == digest(codec, code[: len(paths)])


def test_symbols_do_not_depend_on_what_was_encoded_before(codec: Codec, code: list[bytes]) -> None:
    forwards = [digest(codec, [raw]) for raw in code]
    backwards = [digest(codec, [raw]) for raw in reversed(code)]
    fresh = copy.deepcopy(codec)  # by the state that is pickled, so without its library's handles
    assert forwards == backwards[::-1] == [digest(fresh, [raw]) for raw in code]


def test_a_pickled_codec_leaves_its_library_handles_behind(codec: Codec, code: list[bytes]) -> None:
    before = len(pickle.dumps(codec))
    codec.decode(codec.encode(code[0]).symbols)
    other = copy.deepcopy(codec)  # by the same state
    assert len(pickle.dumps(codec)) == before
    assert digest(other, code[:5]) == digest(codec, code[:5])


def test_the_folder_describes_the_codec(codec: Codec, tmp_path: Path) -> None:
    codec.save(tmp_path)
    description = json.loads((tmp_path / "codec.json").read_text())
    assert description["kind"] == codec.kind and description["version"] == codec.version
    assert description["options"] == codec.settings
    assert description["alphabet"] == codec.alphabet and description["width"] == codec.width


def test_the_table_beside_the_model_decodes_without_the_library(
    codecs: dict[str, Codec], code: list[bytes], tmp_path: Path
) -> None:
    codecs["sentencepiece"].save(tmp_path)
    table = json.loads((tmp_path / "pieces.json").read_text())
    ids = codecs["sentencepiece"].encode(code[0]).symbols.tolist()
    assert b"".join(bytes.fromhex(table[i]) for i in ids) == code[0]


def test_versions_of_the_libraries_are_named(codec: Codec) -> None:
    assert codec.libraries() and all(version[0].isdigit() for version in codec.libraries().values())


@pytest.mark.parametrize(
    "content", [None, "", "[]", "{}", '{"kind": "gzip"}', '{"kind": 3, "version": 1, "options": {}}']
)
def test_a_folder_without_a_description_is_refused(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "codec.json").write_text(content)
    with pytest.raises(ByteproxyError, match=r"codec\.json"):
        load_codec(tmp_path)


def test_a_folder_of_another_version_is_refused(codec: Codec, tmp_path: Path) -> None:
    codec.save(tmp_path)
    description = json.loads((tmp_path / "codec.json").read_text())
    (tmp_path / "codec.json").write_text(json.dumps({**description, "version": 99}))
    with pytest.raises(ByteproxyError, match="version 99, expected"):
        load_codec(tmp_path)


@pytest.mark.parametrize(("name", "file"), [("sentencepiece", "pieces.json"), ("zstd_dictionary", "dictionary.zstd")])
def test_a_folder_that_lacks_a_file_is_refused(name: str, file: str, codecs: dict[str, Codec], tmp_path: Path) -> None:
    codecs[name].save(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(ByteproxyError, match=file):
        load_codec(tmp_path)


def test_a_table_of_another_model_is_refused(codecs: dict[str, Codec], code: list[bytes], tmp_path: Path) -> None:
    codecs["sentencepiece"].save(tmp_path / "a")
    codec_class("sentencepiece").fit(code[:20], vocab=1024).save(tmp_path / "b")
    (tmp_path / "b" / "sentencepiece.model").rename(tmp_path / "a" / "sentencepiece.model")
    with pytest.raises(ByteproxyError, match="differ"):
        load_codec(tmp_path / "a").encode(b"text")
