// The state of GPUs by NVIDIA's management library, which comes with the driver and is opened when
// first needed: the program builds and runs without it. Nothing here makes a CUDA context.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace nereus::doctor {

// Why a GPU's clock is held down: bits of GpuFacts::slowdown.
namespace slowdown {
inline constexpr uint64_t kIdle = 0x1;
inline constexpr uint64_t kApplicationClocks = 0x2;
inline constexpr uint64_t kPowerCap = 0x4;
inline constexpr uint64_t kHardware = 0x8;
inline constexpr uint64_t kSoftwareThermal = 0x20;
inline constexpr uint64_t kHardwareThermal = 0x40;
inline constexpr uint64_t kPowerBrake = 0x80;
}  // namespace slowdown

// Values that a GPU does not report stay empty.
struct GpuFacts {
  int index = 0;
  std::string name, bus;
  std::string error;  // the driver cannot reach it: nothing else is known
  int64_t memory_bytes = 0, memory_used = 0;
  std::vector<unsigned> processes;                          // that compute on it
  std::optional<unsigned> temperature, slowdown_at;         // degrees Celsius
  std::optional<double> power, power_limit, power_default;  // watts
  std::optional<unsigned> sm_clock, sm_clock_max;           // MHz
  std::optional<uint64_t> slowdown;
  std::optional<bool> ecc, mig;
  std::optional<uint64_t> uncorrected_errors;        // since the driver was loaded
  bool remap_pending = false, remap_failed = false;  // of rows with errors
  std::optional<unsigned> pcie_width, pcie_width_max;
  int links = 0, links_active = 0;        // NVLink
  uint64_t link_errors = 0;               // replays, recoveries and checksums
  std::optional<unsigned> fabric;         // 1 not started, 2 in progress, 3 completed
  std::optional<unsigned> fabric_status;  // 0: well
};

struct GpuInventory {
  std::string error;  // why there is nothing else: no library, no driver, ...
  std::string driver;
  int cuda = 0;  // the driver's newest: 13000 is 13.0
  std::vector<GpuFacts> gpus;
};

GpuInventory read_gpus(const std::string& library = "libnvidia-ml.so.1");

}  // namespace nereus::doctor
