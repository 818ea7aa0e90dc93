#!/usr/bin/env bash
# One file with the program and all that it needs but for glibc and CUDA's libraries, for machines
# and containers that have none of this one's.
#
#   scripts/package.sh [cuda]      build-package[-cuda]/nereus-VERSION-linux-x86_64[-cuda].tar.zst
#
# In it: bin/nereus (the C++ library and what Debian has as archives are linked in),
# bin/nereus-libraries (the rest), share/nereus (assets, recipe, configurations), licences. It has
# no MPI: ranks of srun meet through sockets or NCCL. libcurl and OpenSSL are the machine's own, and
# only downloads open them. `bin/nereus setup` in the unpacked folder installs it.
#
# What needs a newer glibc than 2.34 (RHEL 9; Ubuntu 22.04, Debian 12 and 13 have newer ones) is an
# error: build on Debian 12 or an older system.
set -euo pipefail
cd "$(dirname "$0")/.."
readonly newest_glibc=2.34
kind=${1:-}
preset=package${kind:+-$kind} build=build-package${kind:+-$kind}

cmake --preset "$preset" ${CMAKE_ARGS:-} --log-level=STATUS
cmake --build "$build" --parallel "${JOBS:-$(nproc)}" --target nereus
version=$(sed -nE 's/^project\(nereus VERSION ([0-9.]+).*/\1/p' CMakeLists.txt)
name=nereus-$version-linux-$(uname -m)${kind:+-$kind}
stage=$build/package/$name
rm -rf "$build/package"
cmake --install "$build" --prefix "$PWD/$stage" --strip >/dev/null

needed() { objdump -p "$1" | awk '$1 == "NEEDED" { print $2 }'; }
# Of glibc, and what a driver or CUDA brings.
is_outside() { [[ $1 =~ ^(ld-linux.*|lib(c|m|dl|rt|pthread)\.so.*|lib(cudart|cublas|cublasLt|cuda|nvrtc|cupti).*)$ ]]; }
libraries=$stage/bin/nereus-libraries
add_libraries_of() {
  local library path
  for library in $(needed "$1"); do
    if is_outside "$library" || [[ -e $libraries/$library ]]; then continue; fi
    path=$(ldconfig -p | awk -v name="$library" '$1 == name { print $NF; exit }')
    [[ -n $path ]] || { echo "error: $library, which $1 needs, was not found" >&2 && exit 1; }
    mkdir -p "$libraries"
    install -m 644 "$path" "$libraries/$library"
    add_libraries_of "$libraries/$library"
  done
}
add_libraries_of "$stage/bin/nereus"

# What is linked in or lies beside the program keeps its licence: of this distribution's packages.
licences=$stage/share/doc/nereus/libraries
for header in simdjson.h protozero/pbf_writer.hpp prometheus/exposer.h civetweb.h yaml-cpp/yaml.h \
  sqlite3.h zstd.h pcre2.h isa-l/igzip_lib.h zlib.h; do
  for place in /usr/include /usr/include/*-linux-gnu; do
    [[ -e $place/$header ]] && printf '%s\n' "$place/$header"
  done
done >"$build/package/linked"
for library in "$libraries"/*; do
  [[ -e $library ]] && ldconfig -p | awk -v name="${library##*/}" '$1 == name { print $NF; exit }'
done | xargs -r readlink -f >>"$build/package/linked"
while read -r file; do
  package=$(dpkg -S "$file" 2>/dev/null | head -n 1 | cut -d: -f1)
  [[ -e /usr/share/doc/$package/copyright && -n $package ]] ||
    { echo "error: the licence of $file, which is in the package, was not found" >&2 && exit 1; }
  install -D -m 644 "/usr/share/doc/$package/copyright" "$licences/$package"
done <"$build/package/linked"

# "2.36 arc4random" of what is newer than it may be.
too_new() {
  objdump -T "$1" | sed -nE 's/.*\*UND\*.*GLIBC_([0-9.]+)\)? +(.*)/\1 \2/p' | sort -V |
    awk -v most="$newest_glibc" '{ split($1, v, "."); split(most, m, "."); if (v[1] > m[1] || (v[1] == m[1] && v[2] + 0 > m[2] + 0)) print }'
}
for file in "$stage"/bin/nereus "$libraries"/*; do
  [[ -e $file ]] || continue
  symbols=$(too_new "$file")
  if [[ -n $symbols ]]; then
    echo "error: ${file#"$stage/"} needs a newer glibc than $newest_glibc: $(xargs <<<"$symbols")" >&2
    echo "  Build the package on Debian 12 or an older system." >&2
    exit 1
  fi
done

tar --sort=name --owner=0 --group=0 --numeric-owner -C "$build/package" -c "$name" |
  zstd -q -19 -T0 -f -o "$build/$name.tar.zst"
echo "$build/$name.tar.zst: $(du -h "$build/$name.tar.zst" | cut -f1), from glibc $newest_glibc on"
