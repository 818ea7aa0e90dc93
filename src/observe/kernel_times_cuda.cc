#include <cupti.h>
#include <cxxabi.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "observe/kernel_times.h"

namespace nereus {
namespace {

// CUPTI's functions, which its library is opened for.
struct Cupti {
  decltype(&cuptiActivityRegisterCallbacks) register_callbacks = nullptr;
  decltype(&cuptiActivityEnable) enable = nullptr;
  decltype(&cuptiActivityDisable) disable = nullptr;
  decltype(&cuptiActivityFlushAll) flush = nullptr;
  decltype(&cuptiActivityGetNextRecord) next = nullptr;

  bool open() {
    void* library = dlopen("libcupti.so.13", RTLD_NOW);
    if (library == nullptr)
      library = dlopen("/usr/local/cuda/extras/CUPTI/lib64/libcupti.so.13", RTLD_NOW);
    if (library == nullptr) return false;
    const auto find = [&](auto& function, const char* name) {
      function =
          reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
      return function != nullptr;
    };
    return find(register_callbacks, "cuptiActivityRegisterCallbacks") &&
           find(enable, "cuptiActivityEnable") && find(disable, "cuptiActivityDisable") &&
           find(flush, "cuptiActivityFlushAll") && find(next, "cuptiActivityGetNextRecord");
  }
};

// CUPTI calls back from a thread of its own and passes nothing along: what it fills is global.
struct Recording {
  Cupti cupti;
  std::mutex mutex;
  uint32_t device = 0;  // whose runs are kept
  std::vector<KernelRun> runs;
};
Recording& recording() {
  static Recording* const instance = new Recording;  // outlives CUPTI's thread
  return *instance;
}

constexpr size_t kBufferBytes = 8 << 20;

void CUPTIAPI give_buffer(uint8_t** buffer, size_t* size, size_t* records) {
  *buffer = static_cast<uint8_t*>(std::aligned_alloc(8, kBufferBytes));
  *size = kBufferBytes;
  *records = 0;
}

void CUPTIAPI take_buffer(CUcontext, uint32_t, uint8_t* buffer, size_t, size_t valid) {
  Recording& r = recording();
  const std::lock_guard lock(r.mutex);
  CUpti_Activity* record = nullptr;
  while (valid > 0 && r.cupti.next(buffer, valid, &record) == CUPTI_SUCCESS) {
    const auto keep = [&](const auto* activity, const char* name) {
      if (activity->deviceId == r.device)
        r.runs.push_back({name, activity->start, activity->end, activity->streamId});
    };
    if (record->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
      const auto* k = reinterpret_cast<const CUpti_ActivityKernel10*>(record);
      keep(k, k->name);
    } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
      keep(reinterpret_cast<const CUpti_ActivityMemcpy6*>(record), "copy");
    } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMSET) {
      keep(reinterpret_cast<const CUpti_ActivityMemset4*>(record), "fill");
    }
  }
  std::free(buffer);
}

constexpr CUpti_ActivityKind kKinds[] = {CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL,
                                         CUPTI_ACTIVITY_KIND_MEMCPY, CUPTI_ACTIVITY_KIND_MEMSET};

// "nereus::ops::cuda::permute_kernel<...>(...)" without its arguments.
std::string readable(const std::string& mangled) {
  int status = 0;
  char* text = abi::__cxa_demangle(mangled.c_str(), nullptr, nullptr, &status);
  std::string name = status == 0 ? text : mangled;
  std::free(text);
  const std::string anonymous = "(anonymous namespace)::";
  for (size_t at; (at = name.find(anonymous)) != std::string::npos;)
    name.erase(at, anonymous.size());
  constexpr size_t kLongest = 160;
  return name.substr(0, std::min(name.find('('), kLongest));
}

}  // namespace

bool KernelRecorder::start(Stream& stream) {
  Recording& r = recording();
  const bool open =
      r.cupti.open() && r.cupti.register_callbacks(give_buffer, take_buffer) == CUPTI_SUCCESS;
  if (!open) {
    log::warning("libcupti.so.13 was not found: no account of the kernels' time");
    return false;
  }
  r.device = static_cast<uint32_t>(stream.device().index);
  stream.synchronize();
  for (const CUpti_ActivityKind kind : kKinds) r.cupti.enable(kind);
  return true;
}

std::vector<KernelRun> KernelRecorder::stop(Stream& stream) {
  Recording& r = recording();
  stream.synchronize();
  for (const CUpti_ActivityKind kind : kKinds) r.cupti.disable(kind);
  r.cupti.flush(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
  const std::lock_guard lock(r.mutex);
  for (KernelRun& run : r.runs) run.name = readable(run.name);
  return std::exchange(r.runs, {});
}

}  // namespace nereus
