#!/bin/sh
# The corpus of the measurements in README.md and LOG.md: C, Go and Rust from Debian 12's source packages, at fixed versions.
#   sh plans/corpus.sh DIR   makes DIR/code (to build a set from) and DIR/held (other programs, that code/ has nothing of)
# Needs Debian 12 or a container of it, 600 MB of disk. Packages are unpacked, nothing in them is run. Run again, it goes on.
set -eu
test $# -eq 1 || { sed -n '2,4s/^# //p' "$0" >&2; exit 2; }
mkdir -p "$1/packages"
cd "$1"

fetch() { # fetch PACKAGE VERSION SHA256: into packages/, unpacked in packages/PACKAGE
    file="packages/$1.deb"
    if ! echo "$3  $file" | sha256sum --check --status 2>/dev/null; then
        (cd packages && rm -f "$1"_*.deb && apt-get download -qq "$1=$2" && mv "$1"_*.deb "$1.deb")
        echo "$3  $file" | sha256sum --check --quiet || { echo "error: $1 $2 is not what was measured with" >&2; exit 1; }
    fi
    test -d "packages/$1" || { dpkg-deb -x "$file" "packages/.$1" && mv "packages/.$1" "packages/$1"; }
}

fetch golang-1.19-src 1.19.8-2 2dfa82fe4f08f4e0193c532e561af4c91871f5235608f04f2bb8d57bb288df5a
fetch rust-src 1.63.0+dfsg1-2 410b8c6d464cabbe5fb3154ab8c3d374980dd597fbe7e3b7bb3ed8dd1bf11e25
fetch binutils-source 2.40-2 4c03b0d0508f8134200ec083e4dbb81b906efbfa0d7a2bdb7aa0c120aabda246
fetch gdb-source 13.1-3 337bff2adcf544f59c01d1f4119aa1b15074d4470b298ddfadfc92972bddc4cb

go=packages/golang-1.19-src/usr/share/go-1.19 rust=packages/rust-src/usr/src/rustc-1.63.0
for name in gdb/gdb binutils/binutils-2.40; do
    test -d "packages/$name" && continue
    mkdir -p "packages/.tar" && tar -xf "$(find "packages/${name%%/*}-source" -name '*.tar.xz')" -C packages/.tar
    mkdir -p "packages/${name%%/*}" && mv "packages/.tar/${name#*/}" "packages/$name"
done

take() { # take FROM PATTERN TO: the files of that pattern, under their paths; once
    test -d "$3" && return
    mkdir -p "$3.part"
    (cd "$1" && find . -type f -name "$2" | LC_ALL=C sort | tar -cf - --files-from=-) | tar -xf - -C "$3.part"
    mv "$3.part" "$3"
}

mkdir -p code/c code/go code/rust held/c held/go held/rust
for part in gdb bfd include readline libiberty libctf libdecnumber gnulib; do take "packages/gdb/gdb/$part" '*.[ch]' "code/c/$part"; done
for part in binutils ld gprofng; do take "packages/binutils/binutils-2.40/$part" '*.[ch]' "code/c/$part"; done
take packages/binutils/binutils-2.40/gas '*.[ch]' held/c/gas
for path in "$go"/src/*/; do
    part=$(basename "$path")
    test "$part" = cmd || take "$path" '*.go' "code/go/$part"
done
take "$go/test" '*.go' code/go/test
for path in "$go"/src/cmd/*/; do
    part=$(basename "$path")
    case $part in
    asm | go | gofmt | link | cgo | vet | cover | doc) take "$path" '*.go' "held/go/$part" ;;
    *) take "$path" '*.go' "code/go/cmd-$part" ;;
    esac
done
for path in "$rust"/compiler/*/ "$rust"/library/*/ "$rust"/src/test/*/ "$rust/src/librustdoc"; do
    part=$(basename "$path")
    test "$part" = stdarch || take "$path" '*.rs' "code/rust/$part" # stdarch: generated, a tenth of the whole
done
take "$rust/src/tools" '*.rs' held/rust/tools
du -sh --apparent-size code held
