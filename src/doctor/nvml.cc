#include "doctor/nvml.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <array>

namespace nereus::doctor {
namespace {

// The library's interface as far as it is used, declared here because its header comes with the
// driver's development files only. Its structs and numbers are frozen by name (_v2, _v3).
using Return = int;
constexpr Return kSuccess = 0;
constexpr unsigned kMaxLinks = 36;

using Device = void*;
struct Memory {
  unsigned long long total, free, used;
};
struct PciInfo {
  char bus_id_legacy[16];
  unsigned domain, bus, device, device_id, subsystem_id;
  char bus_id[32];
};
struct ProcessInfo {
  unsigned pid;
  unsigned long long used;
  unsigned gpu_instance, compute_instance;
};
struct FabricInfo {
  unsigned char cluster[16];
  Return status;
  unsigned clique;
  unsigned char state;
};
constexpr int kClockSm = 1, kUncorrected = 1, kVolatile = 0;
constexpr int kThresholdSlowdown = 1, kSensorGpu = 0;
constexpr int kLinkCounters = 4;  // replay, recovery, checksums of flits, of data

class Library {
 public:
  explicit Library(const std::string& name) : handle_(dlopen(name.c_str(), RTLD_NOW)) {}
  ~Library() {
    if (!started_) return;
    call<Return()>("nvmlShutdown");
  }
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

  bool is_open() const { return handle_ != nullptr; }
  Return start() {
    const Return r = call<Return()>("nvmlInit_v2");
    started_ = r == kSuccess;
    return r;
  }
  // The function's answer; -1 when this driver's library has no such function.
  template <class F, class... Args>
  Return call(const char* name, Args... args) const {
    auto* f = reinterpret_cast<F*>(dlsym(handle_, name));
    return f == nullptr ? -1 : f(args...);
  }
  std::string text(Return r) const {
    if (r == -1) return "the driver's library is too old";
    auto* f = reinterpret_cast<const char* (*)(Return)>(dlsym(handle_, "nvmlErrorString"));
    return f == nullptr ? fmt::format("error {}", r) : f(r);
  }
  // A number that one call gives.
  template <class T, class... Args>
  std::optional<T> value(const char* name, Device device, Args... args) const {
    T out{};
    if (call<Return(Device, Args..., T*)>(name, device, args..., &out) != kSuccess)
      return std::nullopt;
    return out;
  }

 private:
  void* handle_;
  bool started_ = false;
};

std::optional<double> watts(std::optional<unsigned> milliwatts) {
  if (!milliwatts) return std::nullopt;
  return *milliwatts / 1000.0;
}

void read_links(const Library& nvml, Device device, GpuFacts& gpu) {
  for (unsigned link = 0; link < kMaxLinks; ++link) {
    const auto active = nvml.value<unsigned>("nvmlDeviceGetNvLinkState", device, link);
    if (!active) continue;
    ++gpu.links;
    gpu.links_active += *active == 1 ? 1 : 0;
    for (int counter = 0; counter < kLinkCounters; ++counter)
      gpu.link_errors +=
          nvml.value<unsigned long long>("nvmlDeviceGetNvLinkErrorCounter", device, link, counter)
              .value_or(0);
  }
}

void read_processes(const Library& nvml, Device device, GpuFacts& gpu) {
  std::array<ProcessInfo, 64> list{};
  auto n = static_cast<unsigned>(list.size());
  if (nvml.call<Return(Device, unsigned*, ProcessInfo*)>("nvmlDeviceGetComputeRunningProcesses_v3",
                                                         device, &n, list.data()) != kSuccess)
    return;
  for (unsigned i = 0; i < n; ++i) gpu.processes.push_back(list[i].pid);
}

void read_errors(const Library& nvml, Device device, GpuFacts& gpu) {
  unsigned current = 0, pending = 0;
  if (nvml.call<Return(Device, unsigned*, unsigned*)>("nvmlDeviceGetEccMode", device, &current,
                                                      &pending) == kSuccess)
    gpu.ecc = current == 1;
  if (nvml.call<Return(Device, unsigned*, unsigned*)>("nvmlDeviceGetMigMode", device, &current,
                                                      &pending) == kSuccess)
    gpu.mig = current == 1;
  gpu.uncorrected_errors = nvml.value<unsigned long long>("nvmlDeviceGetTotalEccErrors", device,
                                                          kUncorrected, kVolatile);
  unsigned corrected = 0, uncorrected = 0, waits = 0, failed = 0;
  if (nvml.call<Return(Device, unsigned*, unsigned*, unsigned*, unsigned*)>(
          "nvmlDeviceGetRemappedRows", device, &corrected, &uncorrected, &waits, &failed) ==
      kSuccess) {
    gpu.remap_pending = waits != 0;
    gpu.remap_failed = failed != 0;
  }
}

GpuFacts read_gpu(const Library& nvml, unsigned index) {
  GpuFacts gpu;
  gpu.index = static_cast<int>(index);
  Device device = nullptr;
  const Return r =
      nvml.call<Return(unsigned, Device*)>("nvmlDeviceGetHandleByIndex_v2", index, &device);
  if (r != kSuccess) {
    gpu.error = nvml.text(r);
    return gpu;
  }
  std::array<char, 96> name{};
  const Return named = nvml.call<Return(Device, char*, unsigned)>(
      "nvmlDeviceGetName", device, name.data(), static_cast<unsigned>(name.size() - 1));
  if (named != kSuccess) gpu.error = nvml.text(named);
  gpu.name = name.data();
  if (const auto pci = nvml.value<PciInfo>("nvmlDeviceGetPciInfo_v3", device)) {
    gpu.bus.assign(pci->bus_id, pci->bus_id + sizeof pci->bus_id);
    gpu.bus.resize(std::min(gpu.bus.find('\0'), gpu.bus.size()));
  }
  if (const auto memory = nvml.value<Memory>("nvmlDeviceGetMemoryInfo", device)) {
    gpu.memory_bytes = static_cast<int64_t>(memory->total);
    gpu.memory_used = static_cast<int64_t>(memory->used);
  }
  read_processes(nvml, device, gpu);
  gpu.temperature = nvml.value<unsigned>("nvmlDeviceGetTemperature", device, kSensorGpu);
  gpu.slowdown_at =
      nvml.value<unsigned>("nvmlDeviceGetTemperatureThreshold", device, kThresholdSlowdown);
  gpu.power = watts(nvml.value<unsigned>("nvmlDeviceGetPowerUsage", device));
  gpu.power_limit = watts(nvml.value<unsigned>("nvmlDeviceGetEnforcedPowerLimit", device));
  gpu.power_default =
      watts(nvml.value<unsigned>("nvmlDeviceGetPowerManagementDefaultLimit", device));
  gpu.sm_clock = nvml.value<unsigned>("nvmlDeviceGetClockInfo", device, kClockSm);
  gpu.sm_clock_max = nvml.value<unsigned>("nvmlDeviceGetMaxClockInfo", device, kClockSm);
  gpu.slowdown =
      nvml.value<unsigned long long>("nvmlDeviceGetCurrentClocksThrottleReasons", device);
  read_errors(nvml, device, gpu);
  gpu.pcie_width = nvml.value<unsigned>("nvmlDeviceGetCurrPcieLinkWidth", device);
  gpu.pcie_width_max = nvml.value<unsigned>("nvmlDeviceGetMaxPcieLinkWidth", device);
  read_links(nvml, device, gpu);
  if (const auto fabric = nvml.value<FabricInfo>("nvmlDeviceGetGpuFabricInfo", device);
      fabric && fabric->state != 0) {
    gpu.fabric = fabric->state;
    gpu.fabric_status = static_cast<unsigned>(fabric->status);
  }
  return gpu;
}

}  // namespace

GpuInventory read_gpus(const std::string& library) {
  GpuInventory out;
  Library nvml(library);
  if (!nvml.is_open()) {
    out.error = fmt::format("{} is not on this machine: it has no NVIDIA driver", library);
    return out;
  }
  if (const Return r = nvml.start(); r != kSuccess) {
    out.error = nvml.text(r);
    return out;
  }
  std::array<char, 96> driver{};
  nvml.call<Return(char*, unsigned)>("nvmlSystemGetDriverVersion", driver.data(),
                                     static_cast<unsigned>(driver.size() - 1));
  out.driver = driver.data();
  nvml.call<Return(int*)>("nvmlSystemGetCudaDriverVersion_v2", &out.cuda);
  unsigned count = 0;
  if (const Return r = nvml.call<Return(unsigned*)>("nvmlDeviceGetCount_v2", &count); r != kSuccess)
    out.error = nvml.text(r);
  for (unsigned i = 0; i < count; ++i) out.gpus.push_back(read_gpu(nvml, i));
  return out;
}

}  // namespace nereus::doctor
