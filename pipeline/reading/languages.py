"""A file's language, from its name alone: the tags of the `identify` library narrowed down to one.

The order of `CODE` decides where a name has several tags (`.h` is C, not C++). `CODE` is also what a build keeps by
default: programming, shell, build, markup and configuration languages, but not data (JSON, XML, CSV, plain text).
"""

import difflib
from collections.abc import Collection
from functools import lru_cache

from identify.extensions import EXTENSIONS, EXTENSIONS_NEED_BINARY_CHECK, NAMES
from identify.identify import tags_from_filename

from shards.errors import ByteproxyError

# fmt: off
CODE = (
    "c", "c++", "objective-c", "objective-c++", "c#", "c#script", "java", "kotlin", "scala", "groovy", "clojure",
    "clojurescript", "python", "pyi", "cython", "javascript", "jsx", "ts", "tsx", "coffee", "vue", "svelte", "astro",
    "go", "rust", "swift", "dart", "zig", "nim", "crystal", "vala", "d", "ruby", "erb", "perl", "php", "lua", "luau",
    "r", "julia", "fortran", "pascal", "ada", "vb", "f#", "f#script", "ocaml", "haskell", "literate-haskell",
    "idris", "purescript", "elm", "lean", "erlang", "elixir", "gleam", "scheme", "lisp", "prolog", "haxe", "cobol",
    "gdscript", "solidity", "aspectj", "asm", "webassembly", "lex", "yacc", "tcl", "awk", "sed",
    "cuda", "hlsl", "glsl", "metal", "verilog", "system-verilog", "vhdl", "vim", "sas", "prisma", "sql",
    "bats", "bash", "zsh", "shell", "csh", "fish", "nushell", "powershell", "batch",
    "makefile", "cmake", "meson", "bazel", "dockerfile", "m4", "nix", "terraform", "hcl", "puppet", "bitbake",
    "proto", "textproto", "thrift", "graphql", "idl", "avro-schema",
    "html", "css", "scss", "sass", "less", "stylus", "pug", "jade", "jinja", "twig", "handlebars", "mustache",
    "markdown", "rst", "asciidoc", "tex", "toml", "yaml", "ini",
)
# fmt: on
_SAME = {
    "pyi": "python",
    "ts": "typescript",
    "tsx": "typescript",
    "jsx": "javascript",
    "bash": "shell",
    "zsh": "shell",
    "bats": "shell",
    "c#script": "c#",
    "f#script": "f#",
    "clojurescript": "clojure",
    "literate-haskell": "haskell",
}  # fmt: skip
_ALIASES = {
    "cpp": "c++", "cxx": "c++", "csharp": "c#", "cs": "c#", "fsharp": "f#", "js": "javascript", "py": "python",
    "golang": "go", "rb": "ruby", "rs": "rust", "sh": "shell", "objc": "objective-c", "md": "markdown", "yml": "yaml",
    "c-sharp": "c#", "f-sharp": "f#", "visual basic": "vb", "visual-basic": "vb", "assembly": "asm",
    "batchfile": "batch", "common lisp": "lisp", "common-lisp": "lisp", "emacs lisp": "lisp", "emacs-lisp": "lisp",
    "racket": "scheme", "viml": "vim", "vim script": "vim", "systemverilog": "system-verilog",
    "restructuredtext": "rst", "protocol buffer": "proto", "protocol-buffer": "proto", "literate haskell": "haskell",
} | _SAME  # fmt: skip
_MORE = {  # suffixes that the library does not know
    "tcc": "c++", "txx": "c++", "mts": "typescript", "cts": "typescript", "d": "d", "t": "perl", "raku": "perl",
    "f": "fortran", "for": "fortran", "adb": "ada", "ads": "ada", "ada": "ada", "fsi": "f#", "mll": "ocaml",
    "mly": "ocaml", "rkt": "scheme", "lisp": "lisp", "lsp": "lisp", "cl": "lisp", "el": "lisp", "glsl": "glsl",
    "vert": "glsl", "frag": "glsl", "vhdl": "vhdl", "wat": "webassembly", "wast": "webassembly", "prolog": "prolog",
    "tcl": "tcl", "awk": "awk", "sed": "sed", "cob": "cobol", "cbl": "cobol", "l": "lex", "ll": "lex", "y": "yacc",
    "yy": "yacc", "star": "bazel", "hx": "haxe", "pod": "perl",
}  # fmt: skip
_NOT_A_LANGUAGE = frozenset({"text", "binary", "executable", "header", "image", "audio", "zip"})
_RANK = {tag: rank for rank, tag in enumerate(CODE)}

DEFAULT = tuple(dict.fromkeys(_SAME.get(tag, tag) for tag in CODE))


def language_of(name: str) -> str | None:
    """The language of a file by its path or name, or None where the name says nothing or says that it is no text."""
    return _language_of(name.rpartition("/")[2])


@lru_cache(maxsize=4096)
def _language_of(name: str) -> str | None:
    tags = tags_from_filename(name)
    if not tags:
        return _MORE.get(name.rpartition(".")[2].lower()) if "." in name[1:] else None
    if "binary" in tags:
        return None
    tag = min(tags - _NOT_A_LANGUAGE, key=lambda tag: (_RANK.get(tag, len(CODE)), tag), default=None)
    return None if tag is None else _SAME.get(tag, tag)


def normalise(name: str) -> str:
    """One spelling of a language's name as it comes in metadata or on the command line."""
    name = name.strip().lower()
    return _ALIASES.get(name, name)


def parse_languages(names: Collection[str]) -> tuple[str, ...]:
    """Check the languages asked for; none means the default list. An unknown one is an error that names the nearest."""
    if not names:
        return DEFAULT
    tables = (EXTENSIONS, EXTENSIONS_NEED_BINARY_CHECK, NAMES)
    known = {normalise(tag) for table in tables for tags in table.values() for tag in tags - _NOT_A_LANGUAGE}
    known |= set(DEFAULT)
    wanted = {normalise(name) for name in names}
    for name in sorted(wanted - known):
        near = difflib.get_close_matches(name, sorted(known), 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ByteproxyError(f"--languages: {name!r} is no known language{hint} The default is: {' '.join(DEFAULT)}")
    return tuple(sorted(wanted))
