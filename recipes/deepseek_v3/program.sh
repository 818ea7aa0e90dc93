# Sets `program` to the nereus that the recipe's scripts run; ends them when there is none. They set
# `repository` before.
program=
for place in "${NEREUS_BIN:-}" "${LLMB_INSTALL:+$LLMB_INSTALL/bin/nereus}" "$repository/build-cuda/nereus" \
  "$repository/build/nereus"; do
  if [[ -n $place && -x $place ]]; then
    program=$place
    break
  fi
done
if [[ -z $program ]]; then
  if [[ -n ${LLMB_INSTALL:-} && ! -d $LLMB_INSTALL ]]; then
    echo "${0##*/}: LLMB_INSTALL = $LLMB_INSTALL: there is no such folder. \`nereus setup\` makes it." >&2
  else
    echo "${0##*/}: no nereus in ${LLMB_INSTALL:-LLMB_INSTALL}/bin or below $repository: set NEREUS_BIN," \
      "run \`nereus setup\`, or build one (make PRESET=cuda)." >&2
  fi
  exit 1
fi
