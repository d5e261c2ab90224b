"""Secrets and personal data: found in their forms, replaced by others of the same form, in linear time, for any bytes.

The secrets here are made up, and put together at run time so that scanners of this repository do not take them for
real.
"""

import json
import shutil
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cleaning.scrub import scrub
from pipeline.cleaning.secret_kinds import KINDS
from pipeline.reading.sources import read_stored
from pipeline.records import SPAN, WHOLE_FILE, Place
from shards.errors import ByteproxyError
from shards.hashing import document_id
from shards.reader import ShardSet
from tests.pipeline.conftest import STDLIB, digests, run_build

BODY = "bPxRfiCYEXAMPLmQzK7aT2vW9dN4sJ6hG1fL8eU3oY5cI0"
SECRETS = {  # kind -> texts with a secret between « and »
    "private key": [
        "-----BEGIN RSA " + f"PRIVATE KEY-----«\nMIIEowIBAAKCAQEA{BODY}\n{BODY}=\n»-----END RSA PRIVATE KEY-----",
        'k = "-----BEGIN ' + "PRIVATE KEY-----«\\nMIIEvQIBADANBg" + BODY * 2 + "\\n»-----END PRIVATE KEY-----\"",
    ],
    "AWS key": ["key = AK" + "IA«Q6XWZ3TNPLM5RVYB»\n"],
    "GitHub token": ["gh" + f"p_«{BODY[:36]}»", "github" + f"_pat_«{(BODY * 2)[:82]}»"],
    "GitLab token": ["gl" + f"pat-«{BODY[:20]}»"],
    "Slack token": ["xo" + "xb-«123456789012-abcDEF123456»"],
    "Slack webhook": ["https://hooks.slack" + f".com/services/«T0{BODY[:7]}/B0{BODY[:7]}/{BODY[:24]}»"],
    "Google key": ["AI" + f"za«{BODY[:35]}»"],
    "Stripe key": ["sk_" + f"live_«{BODY[:24]}»"],
    "model service key": ["sk-" + f"ant-«api03-{(BODY * 2)[:88]}»"],
    "package token": ["np" + f"m_«{BODY[:36]}»", "hf" + "_«" + "aBcDeFgHiJkLmNoPqRsTuVwXyZaBcDeFgH" + "»"],
    "JWT": ["«ey" + "JhbGciOiJIUzI1NiJ9.ey" + "JzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N»"],
    "password in a URL": ["postgres://admin:«hunter2!x»@db.internal/x"],
    "assigned secret": [
        f"api_key = '«{BODY[:32]}»'", f'"auth_token": "«{BODY[:20]}»"', f"const dbPassword = b'«{BODY[5:30]}»';",
        f'os.environ["SECRET"] = "«{BODY[:32]}»"',
    ],
    "e-mail": ["Author: Jane <«jane.doe+code@corp.co.uk»>", "mailto:«x@y.org».", "«a@b.com»,«c@d.com»"],
    "IPv4": ["host = '«93.184.216.34»'", "ping «93.184.216.34».", "http://«93.184.216.34»:80/"],
    "IPv6": ["«2606:2800:220:1:248:1893:25c8:1946»", "[«2a00:1450:4001:81b::200e»]:443"],
}  # fmt: skip
INNOCENT = [
    "AKIA" + "IOSFODNN7EXAMPLE", "git@github.com:me/it.git", "a@example.com", "x = a @ b.T", "10.0.0.1 127.0.0.1",
    "192.168.1.1", "8.8.8.8", "version 1.2.3.4", "1.2.3.4.5.6", "192.0.2.7 2001:db8::1", "a::b std::abs ab12::cd34",
    "12:34:56",
    "token = 'not_a_real_secret_name'", "secret = get_secret('0123456789abcdefABCDEF')", "user:password@x",
    "@decorator.name",
    "-----BEGIN PUBLIC KEY-----\n" + BODY * 2 + "\n-----END PUBLIC KEY-----",
    "sha256 = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'", "v93.184.216.34", "0.93.184.216.34",
    "224.0.0.1", "999.1.1.1", "password = 'hunter2'",
]  # fmt: skip
ID = bytes(range(16))


def marked(text: str) -> tuple[bytes, list[bytes]]:
    """(The text without its marks, the secrets between them)."""
    secrets = [part.partition("»")[0].encode() for part in text.split("«")[1:]]
    return text.replace("«", "").replace("»", "").encode(), secrets


@pytest.mark.parametrize("kind", [kind.name for kind in KINDS])
def test_every_kind_of_secret_is_replaced_and_nothing_around_it(kind: str) -> None:
    for text in SECRETS[kind]:
        raw, secrets = marked(f"x = 1\n{text}\ny = 2\n")
        stored = scrub(raw, ID)
        assert dict(stored.replaced) == {kind: len(secrets)}, text
        around = raw
        for secret in secrets:
            assert secret not in stored.raw
            before, _, around = around.partition(secret)
            assert before in stored.raw
        assert stored.raw.startswith(b"x = 1\n") and stored.raw.endswith(around)


@pytest.mark.parametrize("kind", ["private key", "AWS key", "GitHub token", "Stripe key", "JWT", "assigned secret"])
def test_a_key_keeps_its_length_its_prefix_and_where_it_has_letters_and_digits(kind: str) -> None:
    def shape(raw: bytes) -> list[int]:
        return [65 if 65 <= c <= 90 else 97 if 97 <= c <= 122 else 48 if 48 <= c <= 57 else c for c in raw]

    for text in SECRETS[kind]:
        raw, _ = marked(text)
        stored = scrub(raw, ID).raw
        assert stored != raw and shape(stored) == shape(raw)


@pytest.mark.parametrize("text", INNOCENT)
def test_what_is_public_or_an_example_stays(text: str) -> None:
    raw = f"x = 1\n{text}\n".encode()
    assert scrub(raw, ID) == (raw, {})


def test_the_replacement_depends_on_the_document_and_the_place_and_not_on_the_secret() -> None:
    one, other = b"mail joe@corp.com now", b"mail sue@corp.com now"
    assert scrub(one, ID).raw == scrub(other, ID).raw == scrub(one, bytes(ID)).raw
    assert scrub(one, ID).raw != scrub(one, bytes(16)).raw
    twice = scrub(b"joe@corp.com joe@corp.com", ID).raw.split()
    assert twice[0] != twice[1]


def test_what_was_put_in_for_mail_and_addresses_is_left_alone_when_scrubbed_again() -> None:
    raw = b"\n".join(marked(text)[0] for kind in ("e-mail", "IPv4", "IPv6") for text in SECRETS[kind])
    once = scrub(raw, ID).raw
    assert scrub(once, bytes(16)) == (once, {})


ALPHABET = [
    b"@",
    b".",
    b":",
    b"::",
    b"-",
    b"-----BEGIN PRIVATE KEY-----",
    b"ghp_",
    b"eyJ",
    b"a",
    b"9",
    b"://",
    b"\n",
    b"'",
    b"=",
]


@settings(deadline=None)
@given(st.one_of(st.binary(max_size=2000), st.lists(st.sampled_from(ALPHABET), max_size=200).map(b"".join)))
def test_any_bytes_go_in_and_come_out_the_same_each_time(raw: bytes) -> None:
    stored = scrub(raw, ID)
    assert stored == scrub(raw, ID)
    assert stored.raw == raw or stored.replaced


@pytest.mark.parametrize(
    "pattern",
    [
        b"a", b"a@", b"@a.", b"a.", b"a@b.", b"a-.", b"1.", b"1.1.1.", b"2001:", b"20:", b"::", b"=", b"='", b"secret",
        b"token=", b"token='", b"token = 'a", b"://", b"://a:", b"://a:b", b"-----BEGIN PRIVATE KEY-----",
        b"PRIVATE KEY- -", b"eyJa.", b"eyJaaaaaaaaaaaaaaaaaaaa.", b"xoxb-", b"ghp_a", b"ghp_" + b"a" * 300, b"sk-ant-",
        b"sk-T3BlbkFJ", b"sk-aT3BlbkFJ-", b"AKIA", b"hooks.slack.com/services/", b"\n", b" ", b"\"a\":",
        b"pypi-AgEIcHlwaS5vcmc", b"joe@corp.com ", b"93.184.216.34 ",
    ],
    ids=lambda pattern: pattern.decode()[:24],
)  # fmt: skip
def test_a_megabyte_made_to_be_slow_takes_bounded_time(pattern: bytes) -> None:
    raw = pattern * (1_000_000 // len(pattern))
    begin = time.process_time()
    scrub(raw, ID)
    scrub(raw + b"joe@corp.com ghp_ AKIA eyJ xoxb :// PRIVATE KEY sk-ant-", ID)  # with every pattern awake
    assert time.process_time() - begin < 8


def test_time_grows_as_the_document_does() -> None:
    def seconds(pattern: bytes, size: int) -> float:
        raw = pattern * (size // len(pattern))
        best = float("inf")
        for _ in range(3):
            begin = time.process_time()
            scrub(raw, ID)
            best = min(best, time.process_time() - begin)
        return best

    for pattern in (b"a@b.", b"1.1.1.", b"eyJa.", b"token='", b"://a:b", b"-----BEGIN PRIVATE KEY-----"):
        assert seconds(pattern, 800_000) < 16 * seconds(pattern, 100_000) + 0.05  # 8 for linear, 64 for quadratic


def test_a_scrubbed_document_is_read_again_only_if_its_original_is_the_same(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    raw = b"mail joe@corp.com\n"
    file.write_bytes(raw)
    source_id = document_id(raw)
    stored = scrub(raw, source_id).raw
    place = Place(bytes(file), 0, 0, WHOLE_FILE)
    assert read_stored(place, document_id(stored), source_id) == (stored, {"e-mail": 1})
    assert read_stored(Place(bytes(file), 0, len(raw), SPAN), document_id(raw), None) == (raw, {})
    with pytest.raises(ByteproxyError, match="scrubs otherwise"):
        read_stored(place, document_id(raw), source_id)
    file.write_bytes(b"mail sue@corp.com\n")
    with pytest.raises(ByteproxyError, match="changed while"):
        read_stored(place, document_id(stored), source_id)


@pytest.fixture(scope="module")
def leaky(tmp_path_factory: pytest.TempPathFactory, code: Path) -> tuple[Path, list[bytes]]:
    """Real code with a secret of every kind in it, one document twice, one that a rule leaves out."""
    corpus = shutil.copytree(code, tmp_path_factory.mktemp("leaky") / "corpus")
    secrets = []
    (corpus / "leaks").mkdir()
    for number, texts in enumerate(SECRETS.values()):
        raw, found = marked("\n".join(f"# {text}" for text in texts) + "\n")
        secrets += found
        (corpus / "leaks" / f"leak{number}.py").write_bytes(raw)
    shutil.copy(corpus / "leaks" / "leak1.py", corpus / "leaks" / "again.py")
    (corpus / "leaks" / "long.py").write_bytes(b"joe@corp.com " * 200)
    return corpus, [*secrets, b"joe@corp.com"]


def test_no_secret_is_left_in_anything_that_a_build_writes_or_says(
    leaky: tuple[Path, list[bytes]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, secrets = leaky
    out = tmp_path / "set"
    assert run_build(corpus, out, "--scrub", "--rule", "longest-line", "--val-fraction", "0.04") == 0
    said = capsys.readouterr()
    rejected = [row for part in (out / "rejected").glob("*.parquet") for row in pq.read_table(part).to_pylist()]
    text = (said.out + said.err + json.dumps(rejected, default=repr)).encode()
    text += b"".join(p.read_bytes() for p in out.rglob("*") if p.is_file() and p.suffix != ".parquet")
    opened = ShardSet.open(out)
    held = [bytes(opened.split(s).raw(i)) for s in ("train", "val") for i in range(len(opened.split(s)))]
    everything = text + b"\n".join(held)
    for secret in secrets:
        for line in secret.split(b"\n"):
            assert len(line) < 4 or line not in everything, line
    assert any(b"def " in raw for raw in held)
    by_reason = {row["path"]: row["reason"] for row in rejected}
    assert by_reason["leaks/leak1.py"] != by_reason.get("leaks/again.py")  # one of the two is a duplicate
    report = json.loads((out / "report.json").read_text())
    assert set(report["scrubbed"]) == {kind.name for kind in KINDS}
    assert report["scrubbed"]["JWT"] == {"documents": 1, "places": 1}
    assert report["scrubbed"]["assigned secret"]["places"] == 4
    assert report["counts"]["documents"] + len(rejected) == report["counts"]["found"]


def test_id_is_that_of_the_stored_bytes_and_source_id_that_of_the_original_for_any_number_of_workers(
    leaky: tuple[Path, list[bytes]], tmp_path: Path
) -> None:
    corpus, _ = leaky
    for workers in ("1", "2"):
        assert run_build(corpus, tmp_path / workers, "--scrub", "--workers", workers, "--val-fraction", "0.04") == 0
    assert digests(tmp_path / "1") == digests(tmp_path / "2")
    originals = {document_id(p.read_bytes()).hex(): p for p in corpus.rglob("*") if p.is_file()}
    changed = 0
    for split in ("train", "val"):
        for part in sorted((tmp_path / "1" / split).glob("*.parquet")):
            for row in pq.read_table(part).to_pylist():
                original = originals[row["source_id"]].read_bytes()
                assert document_id(row["raw"]) == row["id"]
                assert row["raw"] == scrub(original, bytes.fromhex(row["source_id"])).raw
                changed += row["raw"] != original
    assert changed > len(SECRETS) - 3


def test_of_real_code_little_is_changed() -> None:
    changed, total = 0, 0
    for path in sorted(STDLIB.glob("*.py")):
        raw = path.read_bytes()
        changed += sum(scrub(raw, ID).replaced.values())
        total += raw.count(b"\n")
    assert 0 < changed < total / 1000
