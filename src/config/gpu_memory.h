// What CUDA offers of a GPU's memory, by the recipe's GPU types, for those who size runs where
// there is no GPU: the card's less the firmware's share. A process' own context (0.5 GiB or so) has
// not been taken off yet.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace nereus {

struct GpuMemory {
  const char* type;  // "h100"
  double gib;
};
const std::vector<GpuMemory>& gpu_memory();

// None for a type that is not in the table. Any case.
std::optional<double> gpu_memory_gib(const std::string& type);

// Of that, what a run may need: the rest is for what changes from driver to driver, and for
// fragments.
inline constexpr double kMostOfGpuMemory = 0.97;

}  // namespace nereus
