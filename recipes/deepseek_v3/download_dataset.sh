#!/usr/bin/env bash
#SBATCH --job-name="deepseek_v3:torchtitan-setup"
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --time=12:00:00
#
# C4's English texts, in $LLMB_INSTALL/datasets/c4: 305 GB, which 7 MB/s fetch within the limit. An
# incomplete download is resumed. Arguments go to `nereus download dataset`:
#
#   download_dataset.sh --shards 8      the first 8 of 1,024 shards: 2.5 GB instead of 305
set -eu -o pipefail

if [[ -z ${LLMB_INSTALL:-} ]]; then
  echo "Error: LLMB_INSTALL environment variable is not set" >&2
  exit 1
fi
# Under sbatch this script is a copy in Slurm's spool folder; in a workload's folder it is a link.
repository=
for place in "${LLMB_REPO:-}" "$(dirname "$(readlink -f "$0")")/../.." "$LLMB_INSTALL/llmb_repo" \
  "${SLURM_SUBMIT_DIR:-.}" "${SLURM_SUBMIT_DIR:-.}/../.."; do
  if [[ -n $place && -f $place/recipes/deepseek_v3/program.sh ]]; then
    repository=$(cd -P "$place" && pwd)
    break
  fi
done
if [[ -z $repository ]]; then
  echo "download_dataset.sh: recipes/deepseek_v3 was not found: set LLMB_REPO to Nereus' folder." >&2
  exit 1
fi
source "$repository/recipes/deepseek_v3/program.sh"
folder=$LLMB_INSTALL/datasets/c4

# All shards by their last names: those that are not whole have other ones.
shards=("$folder"/en/c4-train.*-of-01024.json.gz "$folder"/en/c4-validation.*-of-00008.json.gz)
if [[ $# == 0 && ${#shards[@]} == 1032 ]]; then
  echo "Dataset already exists at $folder, skipping download..."
  exit 0
fi
echo "Downloading dataset to: $folder"
[[ -z ${HF_TOKEN:-} ]] || echo "Using HuggingFace token for download..."
"$program" download dataset --dir "$folder" "$@"
echo "Dataset download complete!"
