#!/usr/bin/env bash
# The tokenizer of DeepSeek-V3.1-Base, below $LLMB_WORKLOAD/torchtitan/assets/hf. Arguments go to
# `nereus download tokenizer`.
set -eu -o pipefail

if [[ -z ${LLMB_WORKLOAD:-} ]]; then
  echo "Error: LLMB_WORKLOAD environment variable is not set" >&2
  exit 1
fi
repository=$(cd -P "$(dirname "$0")/../.." && pwd)
source "$repository/recipes/deepseek_v3/program.sh"

# The token is read from the environment: on a command line every user of the machine could see it.
if [[ -n ${HF_TOKEN:-} ]]; then
  echo "Using HuggingFace token for download..."
else
  echo "WARNING: No HF_TOKEN provided"
fi
exec "$program" download tokenizer --repo deepseek-ai/DeepSeek-V3.1-Base "$@"
