#!/bin/sh
# Runs a CUDA compiler, as a launcher in front of it, and fails where ptxas tells of a kernel that it
# made slow: wgmma serialized (C7510 and its like), setmaxnreg ignored (C7508). ptxas says that as
# information, which --Werror leaves alone.
messages=$(mktemp) || exit 1
trap 'rm -f "$messages"' EXIT
"$@" 2>"$messages"
code=$?
cat "$messages" >&2
if grep -q 'Potential Performance Loss' "$messages"; then
  echo "error: ptxas serialized or ignored instructions that the kernel needs for its speed (above)" >&2
  while [ $# -gt 1 ]; do
    [ "$1" = -o ] && rm -f "$2"  # so that the next build tries again
    shift
  done
  exit 1
fi
exit $code
