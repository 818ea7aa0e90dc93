#!/usr/bin/env bash
# The composition test over many draws (engine/compose_test.cc): models, layouts and states drawn at
# random, held against one rank, and on one rank against the formulas. Ranks are threads, with
# memory in common or sockets between them; layouts of up to four ranks are done once more by
# processes with sockets, and by those of mpirun where there is one.
#
#   scripts/compose.sh SEED N    draws SEED * 1000000 + 0 .. N - 1, a line each in
#                                build-ci/compose_SEED.log; what is found comes last
#
# NEREUS_COMPOSE=NUMBER build-ci/src/engine_test --gtest_filter='Compose.*' runs one draw again.
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ $# -ne 2 || ! $1$2 =~ ^[0-9]+$ ]]; then
  sed -n '2,10s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
if [[ -z ${PROGRAM:-} ]]; then
  cmake --preset ci >/dev/null
  cmake --build build-ci --parallel "${JOBS:-$(nproc)}" --target engine_test
fi
log=build-ci/compose_$1.log
mkdir -p build-ci
code=0
program=${PROGRAM:-build-ci/src/engine_test}
export NEREUS_COMPOSE=$(($1 * 1000000)):$2
"$program" --gtest_filter='Compose.*-*TheOrdinaryDraws*' >"$log" 2>&1 || code=$?
if command -v mpirun >/dev/null; then
  mpirun --allow-run-as-root --oversubscribe -n 4 "$program" \
    --gtest_color=no --gtest_filter='ComposeByMpi.*' >>"$log" 2>&1 || code=$?
fi
grep -A12 '^.*: Failure' "$log" || true
grep -E ' draws, |^\[ *(OK|FAILED|PASSED) *\]' "$log"
exit "$code"
