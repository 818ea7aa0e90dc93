#!/usr/bin/env bash
# The composition test over many draws (engine/compose_test.cc): models, layouts and states drawn at
# random, held against one rank, and on one rank against the formulas.
#
#   scripts/compose.sh SEED N    draws SEED * 1000000 + 0 .. N - 1, a line each in
#                                build-ci/compose_SEED.log; what is found comes last
#
# NEREUS_COMPOSE=NUMBER build-ci/src/engine_test --gtest_filter='Compose.*' runs one draw again.
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ $# -ne 2 || ! $1$2 =~ ^[0-9]+$ ]]; then
  sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
if [[ -z ${PROGRAM:-} ]]; then
  cmake --preset ci >/dev/null
  cmake --build build-ci --parallel "${JOBS:-$(nproc)}" --target engine_test
fi
log=build-ci/compose_$1.log
mkdir -p build-ci
code=0
NEREUS_COMPOSE=$(($1 * 1000000)):$2 "${PROGRAM:-build-ci/src/engine_test}" \
  --gtest_filter='Compose.*-*TheOrdinaryDraws*' >"$log" 2>&1 || code=$?
grep -A12 '^.*: Failure' "$log" || true
grep -E ' draws, |^\[ *(OK|FAILED|PASSED) *\]' "$log"
exit "$code"
