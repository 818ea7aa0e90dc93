#include "cli/installation.h"

#include <cstdlib>
#include <filesystem>

namespace nereus {

recipe::ClusterConfig read_installation() {
  const char* install = std::getenv("LLMB_INSTALL");
  return recipe::read_cluster_config(recipe::find_cluster_config(install ? install : ""));
}

std::string program_path() { return std::filesystem::read_symlink("/proc/self/exe").string(); }

}  // namespace nereus
