#!/usr/bin/env bash
# A package of scripts/package.sh in bare systems, which have nothing but what Debian calls minbase:
# unpacked, installed by its own setup, and trained with, on two threads and as two ranks that meet
# through sockets. Needs root, debootstrap and a Debian mirror; not one of the ordinary tests.
#
#   scripts/package_test.sh PACKAGE [SUITE...]      default: bookworm trixie (Debian 12 and 13)
set -euo pipefail
package=$1
shift
suites=("$@")
[[ ${#suites[@]} -gt 0 ]] || suites=(bookworm trixie)
mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources} 2>/dev/null |
  sed -nE 's/^(deb|URIs:) .*(https?:[^ ]+).*/\2/p' | head -n 1) || true
folder=$(mktemp -d /tmp/nereus-package.XXXXXX)
trap 'umount "$folder"/*/proc 2>/dev/null; rm -rf --one-file-system "$folder"' EXIT
for suite in "${suites[@]}"; do
  root=$folder/$suite
  debootstrap --variant=minbase "$suite" "$root" "$mirror" >"$folder/$suite.log" 2>&1 ||
    { tail -n 5 "$folder/$suite.log" && exit 1; }
  mount --bind /proc "$root/proc"  # where a program finds itself
  zstd -q -d -c "$package" | tar -x -C "$root/opt"
  # shellcheck disable=SC2016  # of the shell inside
  chroot "$root" /bin/bash -o pipefail -euc '
    ldd --version | head -n 1
    cd /opt/nereus-*
    bin/nereus --version
    export HOME=/root LLMB_INSTALL=/srv/llmb
    bin/nereus setup --install $LLMB_INSTALL --account a --gpu-type h100 --gpu-partition p --cpu-partition p \
      --gpus-per-node 8 --shards none --no-download --yes >/dev/null
    rm -rf /opt/nereus-*
    cd /srv
    $LLMB_INSTALL/bin/llmb-run list | grep "Scales: 512"
    GPU_TYPE=h100 JOB_TOTAL_GPUS=512 llmb/llmb_repo/deepseek_v3/pretrain/torchtitan/launch.sh --dry-run 2>/dev/null | tail -n 1 | grep -o "^srun .* llmb.*/nereus train" | cut -c 1-40
    small="--training.steps=2 --training.seq_len=64 --training.dataset=random --validation.no_enable --cpu.threads=1"
    for size in vocab_size=64 dim=32 inter_dim=48 moe_inter_dim=16 attn_mask_type=causal; do small="$small --model_overrides.$size"; done
    llmb/bin/nereus train llmb/llmb_repo/configs/tiny.toml $small --nproc 2 --job.dump_folder=a | grep " step:  1 "
    export WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29555
    RANK=1 llmb/bin/nereus train llmb/llmb_repo/configs/tiny.toml $small --job.dump_folder=b &
    other=$!
    RANK=0 llmb/bin/nereus train llmb/llmb_repo/configs/tiny.toml $small --job.dump_folder=b | grep " step:  1 "
    wait $other
    ! llmb/bin/nereus train --training.stepz=1 2>/dev/null'
  echo "$suite: ok"
done
