#include <cupti.h>
#include <cxxabi.h>
#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <map>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "device/trace.h"
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
  decltype(&cuptiGetTimestamp) timestamp = nullptr;
  // Of newer versions; without them nobody knows who launched a kernel.
  decltype(&cuptiActivityEnableRuntimeApi) enable_runtime = nullptr;
  decltype(&cuptiActivityEnableDriverApi) enable_driver = nullptr;
  decltype(&cuptiSetThreadIdType) set_thread_ids = nullptr;

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
    find(enable_runtime, "cuptiActivityEnableRuntimeApi");
    find(enable_driver, "cuptiActivityEnableDriverApi");
    find(set_thread_ids, "cuptiSetThreadIdType");
    return find(register_callbacks, "cuptiActivityRegisterCallbacks") &&
           find(enable, "cuptiActivityEnable") && find(disable, "cuptiActivityDisable") &&
           find(flush, "cuptiActivityFlushAll") && find(next, "cuptiActivityGetNextRecord") &&
           find(timestamp, "cuptiGetTimestamp");
  }

  // Of CUPTI's clock, what makes it the host's steady one.
  int64_t offset() const {
    int64_t shortest = INT64_MAX, offset = 0;
    for (int i = 0; i < 16; ++i) {
      uint64_t t = 0;
      const int64_t before = TraceRecorder::now();
      timestamp(&t);
      const int64_t after = TraceRecorder::now();
      if (after - before >= shortest) continue;
      shortest = after - before;
      offset = before + shortest / 2 - static_cast<int64_t>(t);
    }
    return offset;
  }
};

struct Launch {
  uint64_t time;
  int64_t thread;
};
struct Run {
  const std::string* name;  // of Recording::names
  uint64_t begin, end;
  uint32_t stream, correlation;
  uint64_t bytes;
};

// CUPTI calls back from a thread of its own and passes nothing along: what it fills is global.
struct Recording {
  Cupti cupti;
  bool registered = false;
  std::mutex switching;  // held by start() and stop(); CUPTI may call back within either
  std::mutex mutex;      // of what follows
  std::unordered_map<const char*, std::string> names;  // as CUPTI has them
  std::map<uint32_t, std::vector<Run>> runs;           // by device, of those that are recorded
  std::unordered_map<uint32_t, Launch> launches;       // by correlation
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
    const auto keep = [&](const auto* a, const char* name, uint64_t bytes) {
      const auto device = r.runs.find(a->deviceId);
      if (device == r.runs.end()) return;
      const std::string& kept = r.names.try_emplace(name, name).first->second;
      device->second.push_back({&kept, a->start, a->end, a->streamId, a->correlationId, bytes});
    };
    if (record->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
      const auto* k = reinterpret_cast<const CUpti_ActivityKernel10*>(record);
      keep(k, k->name, 0);
    } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
      const auto* c = reinterpret_cast<const CUpti_ActivityMemcpy6*>(record);
      keep(c, "copy", c->bytes);
    } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMSET) {
      const auto* f = reinterpret_cast<const CUpti_ActivityMemset4*>(record);
      keep(f, "fill", f->bytes);
    } else if (record->kind == CUPTI_ACTIVITY_KIND_RUNTIME ||
               record->kind == CUPTI_ACTIVITY_KIND_DRIVER) {
      const auto* a = reinterpret_cast<const CUpti_ActivityAPI*>(record);
      r.launches.insert({a->correlationId, {a->start, static_cast<int64_t>(a->threadId)}});
    }
  }
  std::free(buffer);
}

constexpr CUpti_ActivityKind kKinds[] = {CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL,
                                         CUPTI_ACTIVITY_KIND_MEMCPY, CUPTI_ACTIVITY_KIND_MEMSET};

// The calls that give a stream work, and no others: a record of each would cost the host time.
constexpr CUpti_CallbackId kRuntimeCalls[] = {
    CUPTI_RUNTIME_TRACE_CBID_cudaLaunchKernel_v7000,
    CUPTI_RUNTIME_TRACE_CBID___cudaLaunchKernel_v13000,
    CUPTI_RUNTIME_TRACE_CBID_cudaLaunchKernelExC_v11060,
    CUPTI_RUNTIME_TRACE_CBID_cudaLaunchCooperativeKernel_v9000,
    CUPTI_RUNTIME_TRACE_CBID_cudaMemcpyAsync_v3020,
    CUPTI_RUNTIME_TRACE_CBID_cudaMemcpy2DAsync_v3020,
    CUPTI_RUNTIME_TRACE_CBID_cudaMemsetAsync_v3020};
constexpr CUpti_CallbackId kDriverCalls[] = {CUPTI_DRIVER_TRACE_CBID_cuLaunchKernel,
                                             CUPTI_DRIVER_TRACE_CBID_cuLaunchKernelEx,
                                             CUPTI_DRIVER_TRACE_CBID_cuLaunchCooperativeKernel};

void record_calls(const Cupti& cupti, bool on) {
  if (cupti.enable_runtime == nullptr || cupti.enable_driver == nullptr) return;
  for (const CUpti_CallbackId call : kRuntimeCalls) cupti.enable_runtime(call, on ? 1 : 0);
  for (const CUpti_CallbackId call : kDriverCalls) cupti.enable_driver(call, on ? 1 : 0);
}

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
  stream.synchronize();
  const std::lock_guard switching(r.switching);
  if (!r.registered) {
    r.registered =
        r.cupti.open() && r.cupti.register_callbacks(give_buffer, take_buffer) == CUPTI_SUCCESS;
    if (!r.registered) {
      log::warning("libcupti.so.13 was not found: no account of the kernels' time");
      return false;
    }
    if (r.cupti.set_thread_ids != nullptr)
      r.cupti.set_thread_ids(CUPTI_ACTIVITY_THREAD_ID_TYPE_SYSTEM);
  }
  bool first = false;
  {
    const std::lock_guard lock(r.mutex);
    first = r.runs.empty();
    r.runs[static_cast<uint32_t>(stream.device().index)];
  }
  if (first) {
    for (const CUpti_ActivityKind kind : kKinds) r.cupti.enable(kind);
    record_calls(r.cupti, true);
  }
  return true;
}

std::vector<KernelRun> KernelRecorder::stop(Stream& stream) {
  Recording& r = recording();
  stream.synchronize();
  const std::lock_guard switching(r.switching);
  bool last = false;
  {
    const std::lock_guard lock(r.mutex);
    last = r.runs.size() == 1;
  }
  if (last) {
    record_calls(r.cupti, false);
    for (const CUpti_ActivityKind kind : kKinds) r.cupti.disable(kind);
  }
  r.cupti.flush(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
  const std::lock_guard lock(r.mutex);
  const auto mine = r.runs.extract(static_cast<uint32_t>(stream.device().index));
  if (mine.empty()) return {};
  const int64_t offset = r.cupti.offset();
  const auto host = [offset](uint64_t t) {
    return static_cast<uint64_t>(static_cast<int64_t>(t) + offset);
  };
  std::unordered_map<const std::string*, std::string> names;
  std::vector<KernelRun> out;
  out.reserve(mine.mapped().size());
  for (const Run& run : mine.mapped()) {
    std::string& name = names[run.name];
    if (name.empty()) name = readable(*run.name);
    const auto launch = r.launches.find(run.correlation);
    const bool known = launch != r.launches.end();
    out.push_back({.name = name,
                   .begin = host(run.begin),
                   .end = host(run.end),
                   .stream = run.stream,
                   .launched = known ? host(launch->second.time) : 0,
                   .thread = known ? launch->second.thread : 0,
                   .bytes = static_cast<int64_t>(run.bytes)});
  }
  if (last) r.launches.clear();
  return out;
}

}  // namespace nereus
