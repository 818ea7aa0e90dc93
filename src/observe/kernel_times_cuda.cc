#include <cupti.h>
#include <cxxabi.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>

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

struct Record {
  std::string name;
  uint64_t begin, end;  // ns
};

// CUPTI calls back from a thread of its own and passes nothing along: what it fills is global.
struct Recording {
  Cupti cupti;
  std::mutex mutex;
  std::vector<Record> records;
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
    if (record->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
      const auto* k = reinterpret_cast<const CUpti_ActivityKernel10*>(record);
      r.records.push_back({k->name, k->start, k->end});
    } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
      const auto* m = reinterpret_cast<const CUpti_ActivityMemcpy6*>(record);
      r.records.push_back({"copy", m->start, m->end});
    } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMSET) {
      const auto* m = reinterpret_cast<const CUpti_ActivityMemset4*>(record);
      r.records.push_back({"fill", m->start, m->end});
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

double& kind_of(KernelTimes& t, const std::string& name) {
  const auto has = [&](const char* part) { return name.find(part) != std::string::npos; };
  if (name == "copy" || name == "fill") return t.copies;
  if (has("sdpa") || has("cudnn") || has("flash")) return t.attention;
  if (has("nvjet") || has("gemm") || has("cutlass") || has("splitK")) return t.products;
  return t.memory_bound;
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
  stream.synchronize();
  for (const CUpti_ActivityKind kind : kKinds) r.cupti.enable(kind);
  return true;
}

KernelTimes KernelRecorder::stop(Stream& stream) {
  Recording& r = recording();
  stream.synchronize();
  for (const CUpti_ActivityKind kind : kKinds) r.cupti.disable(kind);
  r.cupti.flush(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
  const std::lock_guard lock(r.mutex);
  std::sort(r.records.begin(), r.records.end(),
            [](const Record& a, const Record& b) { return a.begin < b.begin; });
  KernelTimes out;
  std::map<std::string, KernelTimes::Kernel> by_name;
  uint64_t busy_until = r.records.empty() ? 0 : r.records.front().begin;
  const uint64_t first = busy_until;
  uint64_t gaps = 0;
  for (const Record& record : r.records) {
    KernelTimes::Kernel& k = by_name[record.name];
    const double seconds = 1e-9 * static_cast<double>(record.end - record.begin);
    ++k.launches;
    k.seconds += seconds;
    kind_of(out, record.name) += seconds;
    if (record.begin > busy_until) gaps += record.begin - busy_until;
    busy_until = std::max(busy_until, record.end);
  }
  for (auto& [name, k] : by_name) {
    k.name = readable(name);
    out.kernels.push_back(std::move(k));
  }
  std::sort(out.kernels.begin(), out.kernels.end(),
            [](const auto& a, const auto& b) { return a.seconds > b.seconds; });
  out.gaps = 1e-9 * static_cast<double>(gaps);
  out.span = 1e-9 * static_cast<double>(busy_until - first);
  r.records.clear();
  return out;
}

}  // namespace nereus
