#!/usr/bin/env bash
# Runs every fuzz target with libFuzzer, ASan and UBSan for SECONDS each (default 60), from the
# corpus in tests/corpus/ and what earlier runs found (build-fuzz/corpus/). A crash leaves its input
# in build-fuzz/ and ends the script with an error that names it.
set -euo pipefail
cd "$(dirname "$0")/.."

cmake --preset fuzz
targets=()
while IFS= read -r source; do
  targets+=("$(basename "$source" .cc)")
done < <(find src -name '*_fuzz.cc' | sort)
cmake --build build-fuzz --parallel "$(nproc)" --target "${targets[@]}"

for target in "${targets[@]}"; do
  # NEREUS_FUZZ(name, data) names the corpus.
  name=$(sed -n 's/^NEREUS_FUZZ(\([a-z0-9_]*\),.*/\1/p' "$(find src -name "$target.cc")")
  found=build-fuzz/corpus/$name
  mkdir -p "$found"
  echo "fuzz: $target, ${1:-60} s"
  NEREUS_SOURCE_DIR=$PWD "build-fuzz/src/$target" -max_total_time="${1:-60}" -timeout=20 \
    -rss_limit_mb=4096 -verbosity=0 -print_final_stats=1 -artifact_prefix="build-fuzz/$target-" \
    "$found" "tests/corpus/$name" 2>&1 | grep -vE '^(stat::(new|slow|peak)|INFO)' ||
    { echo "error: $target failed; its input is build-fuzz/$target-*" >&2; exit 1; }
done
