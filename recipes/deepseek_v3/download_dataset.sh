#!/usr/bin/env bash
#SBATCH --job-name="deepseek_v3:torchtitan-setup"
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --time=01:00:00
#
# C4's English texts, in $LLMB_INSTALL/datasets/c4. Arguments go to `nereus download dataset`:
#
#   download_dataset.sh --shards 8      the first 8 of 1,024 shards: 2.5 GB instead of 305
set -eu -o pipefail

if [[ -z ${LLMB_INSTALL:-} ]]; then
  echo "Error: LLMB_INSTALL environment variable is not set" >&2
  exit 1
fi
# Under sbatch this script is a copy in Slurm's spool folder.
repository=${LLMB_REPO:-$(cd "$(dirname "$0")/../.." && pwd)}
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
