// What submit, list, jobs and archive start from: $LLMB_INSTALL's cluster_config.yaml and the
// workloads of its repository.
#pragma once

#include "base/assets.h"
#include "recipe/cluster_config.h"
#include "recipe/metadata.h"

namespace nereus {

recipe::ClusterConfig read_installation();

}  // namespace nereus
