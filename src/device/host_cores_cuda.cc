#include <cuda_runtime.h>
#include <sched.h>

#include <fstream>

#include "base/text.h"
#include "device/host_cores.h"

namespace nereus {
namespace {

std::string local_core_list(int gpu) {
  char bus[32] = {};
  if (cudaDeviceGetPCIBusId(bus, sizeof bus, gpu) != cudaSuccess) return "";
  std::ifstream file("/sys/bus/pci/devices/" + lower(bus) + "/local_cpulist");
  std::string line;
  std::getline(file, line);
  return line;
}

}  // namespace

std::vector<int> bind_thread_near_gpu(int gpu) {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return {};
  cpu_set_t near;
  CPU_ZERO(&near);
  std::vector<int> cores;
  for (const int c : parse_core_list(local_core_list(gpu))) {
    if (c >= CPU_SETSIZE || !CPU_ISSET(c, &allowed)) continue;
    CPU_SET(c, &near);
    cores.push_back(c);
  }
  if (cores.empty() || sched_setaffinity(0, sizeof near, &near) != 0) return {};
  return cores;
}

}  // namespace nereus
