#include "cli/installation.h"

#include <cstdlib>

namespace nereus {

recipe::ClusterConfig read_installation() {
  const char* install = std::getenv("LLMB_INSTALL");
  return recipe::read_cluster_config(recipe::find_cluster_config(install ? install : ""));
}

}  // namespace nereus
