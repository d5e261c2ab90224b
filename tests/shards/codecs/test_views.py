"""How views are asked for, and what is said when that goes wrong."""

import subprocess
import sys

import pytest

from shards.codecs import ViewSpec, codec_class, described, parse_view
from shards.errors import ByteproxyError


@pytest.mark.parametrize(
    ("spec", "view"),
    [
        ("sentencepiece", ViewSpec("sentencepiece", "sentencepiece", {"vocab": 16384})),
        ("sentencepiece:vocab=2048", ViewSpec("sentencepiece", "sentencepiece", {"vocab": 2048})),
        ("sp2k=sentencepiece:vocab=2K", ViewSpec("sp2k", "sentencepiece", {"vocab": 2048})),
        ("gzip", ViewSpec("gzip", "gzip", {"level": 9})),
        ("z=zstd:level=19,dictionary=112K", ViewSpec("z", "zstd", {"level": 19, "dictionary": 114688})),
        ("zstd:dictionary=1m", ViewSpec("zstd", "zstd", {"level": 3, "dictionary": 1048576})),
        ("brotli:level=0", ViewSpec("brotli", "brotli", {"level": 0})),
    ],
)
def test_a_view_is_read_with_all_its_options(spec: str, view: ViewSpec) -> None:
    assert parse_view(spec) == view


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("gzpi", "did you mean 'gzip'"),
        ("", "no codec"),
        ("a=", "no codec"),
        ("gzip:levl=3", "did you mean 'level'"),
        ("gzip:level", "option=value"),
        ("gzip:level=1,level=2", "each option once"),
        ("gzip:level=high", "'high', expected a whole number"),
        ("gzip:level=0", "expected 1 to 12"),
        ("gzip:level=-1", "'-1', expected a whole number"),
        ("zstd:level=23", "expected 1 to 22"),
        ("brotli:level=12", "expected 0 to 11"),
        ("sentencepiece:vocab=100", "expected 320 to"),
        ("sentencepiece:vocab=1.5", "'1.5', expected a whole number"),
        ("Zip=gzip", "'Zip' cannot be its name"),
        ("1z=gzip", "'1z' cannot be its name"),
        ("=gzip", "'' cannot be its name"),
        ("a=b=gzip", "'a=b' cannot be its name"),
        *((f"{name}=gzip", "cannot be its name") for name in ("raw", "id", "source", "path", "language", "licence")),
        *((f"{name}=gzip", "cannot be its name") for name in ("source_id", "a_len", "a_start", "a_sum", "a_anchors")),
    ],
)
def test_a_wrong_view_is_refused_with_the_way_out(spec: str, says: str) -> None:
    with pytest.raises(ByteproxyError, match=says):
        parse_view(spec)


def test_options_are_checked_when_fitting_too() -> None:
    with pytest.raises(ByteproxyError, match="did you mean 'vocab'"):
        codec_class("sentencepiece").fit([b"text"], vocabulary=500)
    with pytest.raises(ByteproxyError, match="whole number"):
        codec_class("gzip").fit([], level=True)


def test_importing_the_codecs_imports_no_library() -> None:
    libraries = "{'sentencepiece', 'deflate', 'zstandard', 'brotli'}"
    check = f"import sys, shards.codecs; assert not {libraries} & set(sys.modules), sys.modules.keys()"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_a_missing_library_is_named() -> None:
    check = (
        "import sys; sys.modules['brotli'] = None\n"
        "from shards.codecs import codec_class\nfrom shards.errors import ByteproxyError\n"
        "try: codec_class('brotli')\nexcept ByteproxyError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert "needs the Python package 'brotli'" in run.stdout


def test_another_package_adds_a_codec_by_entry_point(tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("installed")
    (root / "upper.py").write_text(
        "from shards.codecs.gzip import Gzip\nclass Other(Gzip):\n    kind = 'other'\nnothing = 3\n"
    )
    (root / "upper-1.dist-info").mkdir()
    (root / "upper-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: upper\nVersion: 1\n")
    (root / "upper-1.dist-info" / "entry_points.txt").write_text(
        "[byteproxy.codecs]\nother = upper:Other\nwrong = upper:nothing\n"
    )
    check = (
        f"import sys; sys.path.insert(0, {str(root)!r})\n"
        "from shards.codecs import codec_class, parse_view\nfrom shards.errors import ByteproxyError\n"
        "codec = codec_class('other').fit([], level=1)\nassert codec.decode(codec.encode(b'abc').symbols) == b'abc'\n"
        "assert parse_view('mine=other:level=2').options == {'level': 2}\n"
        "try: codec_class('wrong')\nexcept ByteproxyError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert "expected a Codec class" in run.stdout


def test_every_codec_is_described_with_all_its_options_and_what_they_take() -> None:
    kinds = ("sentencepiece", "gzip", "zstd", "brotli", "neural", "ngram")
    shown = described().splitlines()
    for kind, after in zip(kinds, [*kinds[1:], None], strict=True):
        lines = shown[shown.index(kind) : shown.index(after) if after else None]
        codec = codec_class(kind)
        for option, default in codec.options().items():
            start = f"    {option}={default}  (" if default != "" else f"    {option};"
            (line,) = [line for line in lines if line.startswith(start)]
            assert option not in codec.ranges or f"{codec.ranges[option].stop - 1:,})" in line
            assert all(str(value) in line for value in codec.choices.get(option, ()))
