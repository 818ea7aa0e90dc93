#include "recipe/node_gpus.h"

#include <cstdlib>

#include "base/check.h"
#include "recipe/tasks.h"

namespace nereus::recipe {
namespace {

constexpr int64_t kMost = 1024;

std::string value(const Variables& all, const char* name) {
  const auto it = all.find(name);
  return it == all.end() ? "" : it->second;
}

}  // namespace

int64_t default_gpus_per_node(const std::string& gpu_type) {
  return gpu_type == "gb200" || gpu_type == "gb300" ? 4 : 8;
}

std::pair<std::string, int> gpus_of(const std::string& gres) {
  std::string outside;  // a comma in brackets does not part
  for (int depth = 0; const char c : gres) {
    depth += c == '(' ? 1 : (c == ')' ? -1 : 0);
    if (depth == 0 && c != ')') outside += c;
  }
  for (const std::string& item : split_commas(outside)) {
    if (!item.starts_with("gpu:")) continue;
    const size_t type = 4, colon = item.rfind(':');
    const int n = std::atoi(item.c_str() + colon + 1);
    if (n > 0) return {colon < type ? "" : item.substr(type, colon - type), n};
  }
  return {"", 0};
}

std::optional<int> gpus_of_gres(const std::string& asked) {
  const bool named = asked.find("gpu") != std::string::npos;
  const int n = gpus_of(named ? asked : "gpu:" + asked).second;
  return n > 0 ? std::optional(n) : std::nullopt;
}

int64_t gpus_per_node(const Variables& variables, const std::string& gpu_type, int64_t least) {
  const std::string text = value(variables, "GPUS_PER_NODE");
  if (!text.empty()) {
    char* end = nullptr;
    const int64_t n = std::strtoll(text.c_str(), &end, 10);
    NEREUS_CHECK(kConfig, !*end && n >= least && n <= kMost,
                 "GPUS_PER_NODE = \"{}\": it must be a whole number, {} to {}.", text, least,
                 kMost);
    return n;
  }
  for (const char* name : {"SLURM_GPUS_PER_NODE", "SBATCH_GPUS_PER_NODE"})
    if (const auto n = gpus_of_gres(value(variables, name))) return *n;
  if (const int n = gpus_of(value(variables, "SBATCH_GRES")).second; n > 0) return n;
  return default_gpus_per_node(gpu_type);
}

}  // namespace nereus::recipe
