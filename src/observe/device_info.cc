#include "observe/device_info.h"

#include <unistd.h>

#include <array>
#include <fstream>
#include <sstream>

#include "base/log.h"
#include "device/cuda_runtime.h"

namespace nereus {
namespace {

// A field in KiB of a file like /proc/self/status.
double field_kib(const char* file, const std::string& name) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);)
    if (line.starts_with(name + ":")) return std::stod(line.substr(name.size() + 1));
  return 0;
}

double machine_bytes() {
  return static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGE_SIZE));
}

std::string cpu_name() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  return "unknown";
}

}  // namespace

std::optional<double> peak_flops(const std::string& name) {
  const auto has = [&](const char* part) { return name.find(part) != std::string::npos; };
  if (has("A100")) return 312e12;
  if (has("H100")) return has("NVL") ? 835e12 : has("PCIe") ? 756e12 : 989e12;
  if (has("H200")) return 989e12;
  if (has("B200")) return 2.25e15;  // GB200 too
  if (has("MI355X")) return 2500e12;
  if (has("MI300X") || has("MI325X")) return 1300e12;
  if (has("MI250X")) return 191.5e12;
  if (has("l40s")) return 362e12;
  return std::nullopt;
}

std::optional<double> peak_flops([[maybe_unused]] const Stream& stream) {
#ifdef NEREUS_CUDA
  if (stream.on_gpu()) return peak_flops(cuda::properties(stream.device().index).name);
#endif
  return std::nullopt;
}

std::optional<double> peak_bandwidth(const std::string& name) {
  const auto has = [&](const char* part) { return name.find(part) != std::string::npos; };
  if (has("A100")) return has("80GB") ? 2.0e12 : 1.555e12;
  if (has("H100")) return has("NVL") ? 3.9e12 : has("PCIe") ? 2.0e12 : 3.35e12;
  if (has("H200")) return 4.8e12;
  if (has("B200")) return 8e12;  // GB200 too
  return std::nullopt;
}

std::string device_name([[maybe_unused]] const Stream& stream) {
#ifdef NEREUS_CUDA
  if (stream.on_gpu()) return cuda::properties(stream.device().index).name;
#endif
  return cpu_name();
}

// A GPU's memory is taken before the first step and kept: what is in use is the peak. The driver's
// own part, which was taken before, is not in it.
MemoryUse memory_use([[maybe_unused]] const Stream& stream) {
#ifdef NEREUS_CUDA
  if (stream.on_gpu()) {
    const cuda::MemoryInfo memory = cuda::memory_info(stream.device().index);
    const auto used = static_cast<double>(stream.free_at_start() - memory.free);
    return {.peak_gib = used / (1 << 30),
            .peak_percent = 100 * used / static_cast<double>(memory.total)};
  }
#endif
  const double bytes = field_kib("/proc/self/status", "VmHWM") * 1024;
  return {.peak_gib = bytes / (1 << 30), .peak_percent = 100 * bytes / machine_bytes()};
}

double available_host_memory() { return 1024 * field_kib("/proc/meminfo", "MemAvailable"); }

std::string device_text([[maybe_unused]] const Stream& stream) {
#ifdef NEREUS_CUDA
  if (stream.on_gpu()) {
    const cuda::DeviceProperties p = cuda::properties(stream.device().index);
    return fmt::format("{} with {:.2f}GiB memory", p.name,
                       static_cast<double>(p.memory_bytes) / (1 << 30));
  }
#endif
  return fmt::format("{} ({} cores) with {:.2f}GiB memory", cpu_name(),
                     sysconf(_SC_NPROCESSORS_ONLN), machine_bytes() / (1 << 30));
}

void log_device(const Stream& stream) {
  log::info("{} capacity: {}", stream.on_gpu() ? "CUDA" : "CPU", device_text(stream));
#ifdef NEREUS_CUDA
  if (!stream.on_gpu()) return;
  const std::string name = cuda::properties(stream.device().index).name;
  if (const std::optional<double> peak = peak_flops(name)) {
    log::info("Peak FLOPS used for computing MFU: {:.3e}", *peak);
  } else {
    log::warning("Peak flops undefined for: {}: step lines say mfu: N/A", name);
  }
#endif
}

}  // namespace nereus
