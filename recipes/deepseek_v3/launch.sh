#!/usr/bin/env bash
#SBATCH --job-name=deepseek_v3:torchtitan_launch
#SBATCH --time=02:00:00
#SBATCH --signal=TERM@600
#
# DeepSeek-V3 671B pre-training, as the recipe of the same name starts it with TorchTitan:
#
#   GPU_TYPE=h100 JOB_TOTAL_GPUS=512 LLMB_INSTALL=/lustre/llmb sbatch -N 64 --ntasks-per-node=8 launch.sh
#
# Arguments go to `nereus train`, but for --dry-run and --force. Ten minutes before the time limit
# Slurm tells the run to stop and save. NEREUS_RESUME=JOB or FOLDER goes on with such a run, with its
# variables; NEREUS_REQUEUE=true has Slurm requeue it. docs/recipe.md has the variables; `nereus
# recipe launch` has the logic.
set -eu -o pipefail

if [[ -z ${NEREUS_RESUME:-} ]]; then  # else the run that it names has these
  if [[ -z ${GPU_TYPE:-} ]]; then
    echo "GPU_TYPE is a required variable." >&2
    exit 1
  fi
  if [[ -z ${JOB_TOTAL_GPUS:-} ]]; then
    echo "JOB_TOTAL_GPUS is a required variable." >&2
    exit 1
  fi
  if [[ -z ${LLMB_INSTALL:-} ]]; then
    echo "Please set LLMB_INSTALL to the path of the installation directory for all workloads" >&2
    exit 1
  fi
fi

# Under sbatch this script is a copy in Slurm's spool folder: the repository is found from outside.
repository=
for place in "${LLMB_REPO:-}" "$(dirname "$0")/../.." "${SLURM_SUBMIT_DIR:-.}" \
  "${SLURM_SUBMIT_DIR:-.}/../.." "${LLMB_INSTALL:+$LLMB_INSTALL/llmb_repo}"; do
  if [[ -n $place && -f $place/recipes/deepseek_v3/deepseek_v3_671b.toml ]]; then
    repository=$(cd -P "$place" && pwd)
    break
  fi
done
if [[ -z $repository ]]; then
  echo "launch.sh: recipes/deepseek_v3 was not found: set LLMB_REPO to Nereus' folder, or submit from it." >&2
  exit 1
fi
source "$repository/recipes/deepseek_v3/program.sh"
exec "$program" recipe launch --recipe "$repository/recipes/deepseek_v3" -- "$@"
