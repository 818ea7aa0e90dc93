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
  echo "${0##*/}: no nereus: set NEREUS_BIN, or build one in $repository (make PRESET=cuda)." >&2
  exit 1
fi
