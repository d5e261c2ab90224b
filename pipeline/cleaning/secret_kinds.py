"""What `--scrub` looks for: the form of each kind of secret or personal data, and what stands in its place.

Patterns run in time linear in the document: what may repeat is bounded or possessive, so nothing is tried twice. A
pattern's group 1 is what is replaced. Where a kind has an official form for examples (RFC 2606, 3849, 5737), that is
what is put in, and what is left alone; a key keeps its prefix, its length and where it has capitals and digits.
"""

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

Span = tuple[int, int]
Fill = Callable[[bytes, bytes], bytes]  # (what was found, as many or more random bytes) -> what stands in its place

GITLEAKS = "gitleaks"  # its default rules: the forms that services publish
DETECT_SECRETS = "detect-secrets"
BIGCODE = "BigCode PII"  # bigcode-dataset/pii, the regular expressions used for The Stack


class Kind(NamedTuple):
    """One kind of secret: how it is found and replaced."""

    name: str
    needs: tuple[bytes, ...]  # a document with none of these in it has none of this kind; empty: not known
    find: Callable[[bytes], Iterator[Span]]
    fill: Fill
    source: str


def like(found: bytes, noise: bytes) -> bytes:
    """Letters for letters and digits for digits; all else, and a prefix that says what it is, as they are."""
    kept = _PREFIX.match(found)
    start = kept.end() if kept else 0
    return found[:start] + bytes(
        65 + n % 26 if 65 <= c <= 90 else 97 + n % 26 if 97 <= c <= 122 else 48 + n % 10 if 48 <= c <= 57 else c
        for c, n in zip(found[start:], noise[start:], strict=False)
    )


_PREFIX = re.compile(
    rb"A3T|A[KSBC][IC]A|gh[pousr]_|github_pat_|glpat-|xox[a-z]-|AIza|[sr]k_(?:test|live|prod)_|sk-ant-|sk-(?:proj-)?"
    rb"|npm_|pypi-AgEIcHlwaS5vcmc|hf_"
)


def _key_lines(found: bytes, noise: bytes) -> bytes:
    """The base64 of a private key block; header lines and written-out line ends stay."""
    result, position = [], 0
    for line in found.split(b"\n"):
        part = noise[position : position + len(line)]
        position += len(line) + 1
        if b": " in line:
            result.append(line)
            continue
        changed = bytearray(like(line, part))
        for escape in re.finditer(rb"\\[nrt]", line):
            changed[escape.start() : escape.end()] = escape[0]
        result.append(bytes(changed))
    return b"\n".join(result)


def _mail(found: bytes, noise: bytes) -> bytes:
    return b"user-%s@example.com" % noise[:5].hex().encode()


def _ipv4(found: bytes, noise: bytes) -> bytes:
    return (b"192.0.2", b"198.51.100", b"203.0.113")[noise[0] % 3] + b".%d" % noise[1]


def _ipv6(found: bytes, noise: bytes) -> bytes:
    return b"2001:db8:%x:%x::%x" % tuple(256 * noise[n] + noise[n + 1] for n in (0, 2, 4))


def _pattern(
    expression: bytes, accept: Callable[[bytes], bool] = lambda found: True
) -> Callable[[bytes], Iterator[Span]]:
    compiled = re.compile(expression)

    def find(raw: bytes) -> Iterator[Span]:
        return (match.span(1) for match in compiled.finditer(raw) if accept(match[1]))

    return find


_DOMAIN = re.compile(rb"@((?:[A-Za-z0-9-]{1,63}+\.){1,8}[A-Za-z]{2,24})(?![A-Za-z0-9-])")
_LOCAL = bytes([*range(48, 58), *range(65, 91), *range(97, 123)]) + b"._%+-"
_EXAMPLE = re.compile(rb"(?:^|\.)(?:example\.(?:com|org|net)|example|test|invalid|localhost)$", re.IGNORECASE)


def _mails(raw: bytes) -> Iterator[Span]:
    """From each @ forward the domain, backward the name: most documents have few."""
    end = 0
    for match in _DOMAIN.finditer(raw):
        head = raw[max(end, match.start() - 65) : match.start()]
        name = head[len(head.rstrip(_LOCAL)) :].lstrip(b"._%+-")
        if 1 <= len(name) <= 64 and name != b"git" and not _EXAMPLE.search(match[1]):
            end = match.end()
            yield match.start() - len(name), end


# Resolvers that everybody knows; BigCode leaves them, too
_KNOWN = frozenset(
    b"8.8.8.8 8.8.4.4 1.1.1.1 1.0.0.1 76.76.19.19 76.223.122.150 9.9.9.9 149.112.112.112 208.67.222.222 208.67.220.220 "
    b"8.26.56.26 8.20.247.20 94.140.14.14 94.140.15.15".split()
)


def _public(found: bytes) -> bool:
    """Is it an address of the public Internet? Four single digits are mostly a version."""
    if found in _KNOWN or (len(found) == 7 and b":" not in found):
        return False
    try:
        address = ipaddress.ip_address(found.decode())
    except ValueError:
        return False
    return not any(address in network for network in _NOT_PUBLIC)


def _random(found: bytes) -> bool:
    """Letters and digits mixed, at 3.5 bits a character or more (gitleaks' limit): no word, no placeholder."""
    counts, size = Counter(found), len(found)
    entropy = -sum(count / size * math.log2(count / size) for count in counts.values())
    return entropy >= 3.5 and bool(re.search(rb"[0-9]", found)) and bool(re.search(rb"[A-Za-z]", found))


_VALUE = re.compile(rb"(?:=>?|:)\s{0,3}+[bru]?[\"']([\w+/=.~-]{16,128}+)[\"']", re.IGNORECASE)
_SECRETIVE = re.compile(
    rb"(?:api_?key|secret|token|passw(?:or)?d|credential)[\w.-]{0,20}[\"'\]]{0,2}\s{0,3}:?$", re.IGNORECASE
)


def _assigned(raw: bytes) -> Iterator[Span]:
    """Quoted values that look drawn at random, where what they are assigned to is called a secret."""
    for match in _VALUE.finditer(raw):
        if _random(match[1]) and _SECRETIVE.search(raw, max(0, match.start() - 48), match.start()):
            yield match.span(1)


def _no_example(found: bytes) -> bool:
    return b"EXAMPLE" not in found.upper()


def _no_placeholder(found: bytes) -> bool:
    return found.lower() not in _PLACEHOLDERS and not found.startswith((b"$", b"%", b"{", b"<", b"*"))


_PLACEHOLDERS = frozenset(b"password passwd pass secret pwd token user xxx xxxx changeme example test".split())
# Private, local, for documentation, multicast or reserved: fixed here, for Python's own list changes with its version
_NOT_PUBLIC = tuple(
    map(
        ipaddress.ip_network,
        (
            "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
            "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24",
            "203.0.113.0/24", "224.0.0.0/3", "2001:db8::/32", "3fff::/20",
        ),
    )
)  # fmt: skip
_END = rb"(?![A-Za-z0-9_-])"
_START = rb"(?<![A-Za-z0-9_-])"

KINDS = (
    Kind(
        "private key",
        (b"PRIVATE KEY",),
        _pattern(rb"-----BEGIN [A-Z ]{0,20}PRIVATE KEY(?: BLOCK)?-----((?:[^-]|-(?!-)){64,}+)"),
        _key_lines,
        GITLEAKS,
    ),
    Kind(
        "AWS key",
        (b"AKIA", b"ASIA", b"ABIA", b"ACCA", b"A3T"),
        _pattern(_START + rb"((?:A3T[A-Z0-9]|AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16})" + _END, _no_example),
        like,
        GITLEAKS,
    ),
    Kind(
        "GitHub token",
        (b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_", b"github_pat_"),
        _pattern(_START + rb"(gh[pousr]_[A-Za-z0-9]{36,255}+|github_pat_[A-Za-z0-9_]{82})" + _END),
        like,
        GITLEAKS,
    ),
    Kind("GitLab token", (b"glpat-",), _pattern(_START + rb"(glpat-[A-Za-z0-9_-]{20,64}+)" + _END), like, GITLEAKS),
    Kind("Slack token", (b"xox",), _pattern(_START + rb"(xox[abeoprs]-[A-Za-z0-9-]{10,250}+)" + _END), like, GITLEAKS),
    Kind(
        "Slack webhook",
        (b"hooks.slack.com/",),
        _pattern(rb"hooks\.slack\.com/(?:services|workflows|triggers)/([A-Za-z0-9+/]{43,64}+)"),
        like,
        GITLEAKS,
    ),
    Kind("Google key", (b"AIza",), _pattern(_START + rb"(AIza[A-Za-z0-9_-]{35})" + _END), like, GITLEAKS),
    Kind(
        "Stripe key",
        (b"k_test_", b"k_live_", b"k_prod_"),
        _pattern(_START + rb"([sr]k_(?:test|live|prod)_[A-Za-z0-9]{10,99}+)" + _END),
        like,
        GITLEAKS,
    ),
    Kind(
        "model service key",
        (b"sk-ant-", b"T3BlbkFJ"),
        _pattern(_START + rb"(sk-ant-[A-Za-z0-9_-]{80,120}+|sk-[A-Za-z0-9_-]{20,80}T3BlbkFJ[A-Za-z0-9_-]{20,80}+)"),
        like,
        GITLEAKS,
    ),
    Kind(
        "package token",
        (b"npm_", b"pypi-AgEIcHlwaS5vcmc", b"hf_"),
        _pattern(_START + rb"(npm_[A-Za-z0-9]{36}|pypi-AgEIcHlwaS5vcmc[A-Za-z0-9_-]{50,1000}+|hf_[A-Za-z]{34})" + _END),
        like,
        GITLEAKS,
    ),
    Kind(
        "JWT",
        (b"eyJ",),
        _pattern(_START + rb"(eyJ[A-Za-z0-9_-]{14,}+\.eyJ[A-Za-z0-9_-]{14,}+\.[A-Za-z0-9_-]{10,}+)"),
        like,
        GITLEAKS,
    ),
    Kind(
        "password in a URL",
        (b"://",),
        _pattern(rb"://[^\s/:@\"'<>]{0,64}+:([^\s/:@\"'<>]{3,64}+)@", _no_placeholder),
        like,
        DETECT_SECRETS,
    ),
    Kind(
        "assigned secret",
        (),
        _assigned,
        like,
        GITLEAKS,
    ),
    Kind("e-mail", (b"@",), _mails, _mail, BIGCODE),
    Kind(
        "IPv4",
        (),
        _pattern(rb"(?<![\w.-])((?:[0-9]{1,3}+\.){3}[0-9]{1,3}+)(?!\w|\.\w|-)", _public),
        _ipv4,
        BIGCODE,
    ),
    Kind(
        "IPv6",
        (b":",),
        _pattern(
            rb"(?<![\w:.])([23][0-9A-Fa-f]{3}:(?:[0-9A-Fa-f]{0,4}+:){1,6}[0-9A-Fa-f]{0,4}+)(?![\w:]|\.\w)", _public
        ),
        _ipv6,
        BIGCODE,
    ),
)
