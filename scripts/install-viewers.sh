#!/usr/bin/env bash
# Readers of a run's files for the tests, into .cache/viewers of this folder: TensorBoard and wandb
# from PyPI (a Python environment of their own), promtool. Silent when they are there; what cannot
# be installed is a warning, and its tests are skipped. Called by `scripts/bootstrap.sh viewers`.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

folder=.cache/viewers
wheels="tensorboard==2.21.0 wandb==0.31.0"

if [[ $(cat $folder/wheels 2>/dev/null) != "$wheels" ]]; then
  echo "Installing $wheels into $folder"
  rm -rf $folder
  # shellcheck disable=SC2086  # a list
  if python3 -m venv $folder && $folder/bin/pip install -q --disable-pip-version-check $wheels; then
    echo "$wheels" >$folder/wheels
  else
    echo "warning: $wheels cannot be installed: tests that read with them are skipped." >&2
  fi
fi

if [[ ! -x $folder/bin/promtool ]] && ! command -v promtool >/dev/null; then
  echo "Installing promtool into $folder"
  # Out of its package: to install that would start a server.
  package=$(mktemp -d)
  if (cd "$package" && apt-get -qq download prometheus 2>apt.log) &&
    dpkg-deb -x "$package"/prometheus_*.deb "$package" && mkdir -p $folder/bin; then
    mv "$package/usr/bin/promtool" $folder/bin/
  else
    cat "$package/apt.log" >&2
    echo "warning: promtool cannot be installed: tests that read with it are skipped." >&2
  fi
  rm -rf "$package"
fi
