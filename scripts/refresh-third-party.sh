#!/usr/bin/env bash
# For maintainers: downloads the wheels that CUTLASS's and the cuDNN front-end's headers come in and
# packs the headers again, the same bytes each time. Builds never download; they unpack these.
#
#   scripts/refresh-third-party.sh          then compare third_party/cuda/SHA256SUMS
set -euo pipefail
cd "$(dirname "$0")/.."
readonly cutlass=4.2.0.0 frontend=1.32.0
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

python3 -m pip download --quiet --no-deps --only-binary=:all: -d "$folder" \
  "nvidia-cutlass==$cutlass" "nvidia-cudnn-frontend==$frontend"
(cd "$folder" && for wheel in *.whl; do python3 -m zipfile -e "$wheel" "${wheel%%-*}"; done)

pack() {  # archive, folder to pack, names in it
  local archive=$1 root=$2
  shift 2
  tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 --mode=u=rwX,go=rX \
    -C "$root" -c "$@" | xz -9e -T1 >"third_party/cuda/$archive"
}
source=$folder/nvidia_cutlass/cutlass_library/source
mkdir -p "$folder/cutlass"
cp -r "$source/include" "$folder/cutlass/include"
cp "$folder"/nvidia_cutlass/*.dist-info/licenses/LICENSE.txt "$folder/cutlass/"
pack cutlass-4.2.0.tar.xz "$folder" cutlass
mkdir -p "$folder/cudnn-frontend"
cp -r "$folder/nvidia_cudnn_frontend/include" "$folder/cudnn-frontend/include"
cp "$folder"/nvidia_cudnn_frontend/*.dist-info/licenses/LICENSE*.txt "$folder/cudnn-frontend/"
pack cudnn-frontend-1.32.0.tar.xz "$folder" cudnn-frontend
(cd third_party/cuda && sha256sum ./*.tar.xz | sed 's|\./||' >SHA256SUMS && cat SHA256SUMS)
