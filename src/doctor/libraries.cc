#include <dlfcn.h>
#include <fmt/format.h>

#include "device/device.h"
#include "doctor/network_checks.h"

namespace nereus::doctor {
namespace {

// Where the program itself looks: the loader's places, then the toolkit's.
void* open_library(const std::string& name) {
  void* handle = dlopen(name.c_str(), RTLD_LAZY | RTLD_LOCAL);
  return handle ? handle
                : dlopen(("/usr/local/cuda/lib64/" + name).c_str(), RTLD_LAZY | RTLD_LOCAL);
}

template <class F>
F* function(void* library, const char* name) {
  return library == nullptr ? nullptr : reinterpret_cast<F*>(dlsym(library, name));
}

Finding missing(const char* what, const char* file, bool needed, const char* remedy) {
  return {what, needed ? Verdict::failed : Verdict::skipped, fmt::format("{} was not found", file),
          needed ? fmt::format("{}, or put its folder on LD_LIBRARY_PATH.", remedy) : ""};
}

}  // namespace

std::vector<Finding> check_libraries(int gpus) {
  std::vector<Finding> out;
  int version = 0;
  // The program is linked to the CUDA runtime, so it is there wherever the program runs.
  if (auto* f = function<int(int*)>(open_library("libcudart.so.13"), "cudaRuntimeGetVersion");
      f != nullptr && f(&version) == 0)
    out.push_back({"CUDA runtime", Verdict::ok,
                   fmt::format("{}.{}", version / 1000, version % 1000 / 10), ""});
  else
    out.push_back(missing("CUDA runtime", "libcudart.so.13", false, ""));
  if (auto* f = function<size_t()>(open_library("libcudnn.so.9"), "cudnnGetVersion")) {
    const size_t v = f();
    out.push_back(
        {"cuDNN", Verdict::ok, fmt::format("{}.{}.{}", v / 10000, v / 100 % 100, v % 100), ""});
  } else {
    out.push_back(missing("cuDNN", "libcudnn.so.9", kHasCuda && gpus > 0, "Install cuDNN 9"));
  }
  if (auto* f = function<int(int*)>(open_library("libnccl.so.2"), "ncclGetVersion");
      f != nullptr && f(&version) == 0) {
    const bool old = version < 21801;
    out.push_back({"NCCL", old ? Verdict::failed : Verdict::ok,
                   fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100),
                   old ? "2.18.1 or newer is needed: update it." : ""});
  } else {
    out.push_back(
        missing("NCCL", "libnccl.so.2", kHasCuda && gpus > 1, "Install NCCL 2.18 or newer"));
  }
  return out;
}

}  // namespace nereus::doctor
