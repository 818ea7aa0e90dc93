#include "config/gpu_memory.h"

#include "base/text.h"

namespace nereus {

const std::vector<GpuMemory>& gpu_memory() {
  static const std::vector<GpuMemory> table = {
      {"h100", 79.1}, {"h200", 139.8}, {"b200", 178.3}, {"gb200", 184.3}};
  return table;
}

std::optional<double> gpu_memory_gib(const std::string& type) {
  for (const GpuMemory& gpu : gpu_memory())
    if (lower(type) == gpu.type) return gpu.gib;
  return std::nullopt;
}

}  // namespace nereus
