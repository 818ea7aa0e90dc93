// Where tensors live and work is done.
//
//   Device  a GPU, the CPU, or `meta`: no memory and no arithmetic. On the meta device every op
//           checks its contract and does nothing, so that a whole step can be run for its sizes.
//   Stream  an ordered queue of work of one device. On the CPU work is done when the call returns.
//   Event   a place in a stream that another stream, or the host, can wait for.
//   Buffer  owns device memory, made before the first step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "device/thread_pool.h"
#include "tensor/arena.h"
#include "tensor/tensor.h"

namespace nereus {

#ifdef NEREUS_CUDA
inline constexpr bool kHasCuda = true;
#else
inline constexpr bool kHasCuda = false;
#endif

struct Device {
  enum class Kind : uint8_t { meta, cpu, cuda };
  Kind kind = Kind::cpu;
  int index = 0;

  static Device meta() { return {Kind::meta, 0}; }
  static Device cpu() { return {Kind::cpu, 0}; }
  static Device cuda(int index) { return {Kind::cuda, index}; }
  bool operator==(const Device&) const = default;
};

// A device of the kind that was asked for; none: a GPU when the program was built for one and finds
// one, else the CPU. `local_rank` chooses among several GPUs.
Device choose_device(std::optional<Device::Kind> kind, int local_rank = 0);

// What a library keeps for one stream: handles, plans, workspace.
struct StreamState {
  virtual ~StreamState() = default;
  virtual int64_t bytes() const { return 0; }  // of device memory
};

class Stream {
 public:
  // `pool` is needed on the CPU and must outlive the stream; other devices ignore it. A GPU that is
  // not there or not good enough is an Error{kConfig} that says why.
  // Kernels of a GPU that wait for an SM get it in order of their streams' priority.
  enum class Priority : uint8_t { normal, high };
  explicit Stream(Device device, ThreadPool* pool = nullptr, Priority = Priority::normal);
  // A meta stream whose ops make the plans that they will need on `target`, if that is a GPU's.
  static Stream meta_for(Stream& target) { return Stream(&target); }
  // One that stands for a GPU that is not there: what its libraries would ask for is estimated.
  static Stream meta_of_gpu() { return Stream(OfGpu()); }
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  Device device() const { return device_; }
  bool on_meta() const { return device_.kind == Device::Kind::meta; }
  bool on_cpu() const { return device_.kind == Device::Kind::cpu; }
  bool on_gpu() const { return device_.kind == Device::Kind::cuda; }

  // CPU only: see ThreadPool::parallel_for.
  void parallel_for(int64_t n, FunctionRef<void(int64_t, Scratch)> task) const {
    pool_->parallel_for(n, task, trace_);
  }

  // Who records what is done on the stream (device/trace.h); null: nobody. It must outlive the
  // stream's work.
  TraceRecorder* trace() const { return trace_; }
  void set_trace(TraceRecorder* trace) { trace_ = trace; }

  int threads() const { return pool_->threads(); }  // CPU only: compute threads

  void synchronize();                         // host waits: never inside a step
  void* native() const { return native_; }    // cudaStream_t on a GPU, else null
  int sm_count() const { return sm_count_; }  // GPU only: SMs
  // GPU only: of those, the ones that GEMMs take. Their kernels stay on an SM
  // from begin to end; where kernels of other streams (communication) hold some at the time, a
  // GEMM that wants all takes twice as long. Set before plans are made.
  int gemm_sms() const { return sm_count_ - reserved_sms_; }
  void reserve_sms(int count) { reserved_sms_ = count; }
  Stream* plans_for() const { return plans_for_; }  // meta only: whose plans are made, or null
  bool stands_for_gpu() const { return of_gpu_ || plans_for_ != nullptr; }  // meta only

  // GPU only: bytes of the device's memory that were free when the stream was made, or, by
  // count_from, before something else of this program took some; and that are free now.
  int64_t free_at_start() const { return free_at_start_; }
  void count_from(int64_t free_bytes) { free_at_start_ = free_bytes; }
  int64_t free_now() const;

  // The stream's only T, constructed as T(stream) on first use. That is at start-up, when the plans
  // of libraries are made, so that a step finds everything ready.
  template <class T>
  T& state() {
    static const char key = 0;
    for (auto& [k, s] : states_)
      if (k == &key) return static_cast<T&>(*s);
    states_.emplace_back(&key, std::make_unique<T>(*this));
    return static_cast<T&>(*states_.back().second);
  }

  // Device memory that libraries hold for the stream.
  int64_t state_bytes() const {
    int64_t sum = 0;
    for (const auto& entry : states_) sum += entry.second->bytes();
    return sum;
  }

 private:
  struct OfGpu {};
  explicit Stream(OfGpu) : device_(Device::meta()), pool_(nullptr), of_gpu_(true) {}
  explicit Stream(Stream* target)
      : device_(Device::meta()),
        pool_(nullptr),
        plans_for_(target->on_gpu() ? target : target->plans_for_),
        of_gpu_(target->of_gpu_) {}

  Device device_;
  ThreadPool* pool_;
  TraceRecorder* trace_ = nullptr;
  void* native_ = nullptr;
  int sm_count_ = 0, reserved_sms_ = 0;
  int64_t free_at_start_ = 0;
  Stream* plans_for_ = nullptr;
  bool of_gpu_ = false;
  std::vector<std::pair<const void*, std::unique_ptr<StreamState>>> states_;
};

// On the CPU, where work is done when its call returns, both calls do nothing.
class Event {
 public:
  explicit Event(Device device);
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  void record(Stream&);      // the place: after all that was enqueued so far
  void wait(Stream&) const;  // what is enqueued from here on waits for the place
  void synchronize() const;  // the host waits

 private:
  Device device_;
  [[maybe_unused]] void* native_ = nullptr;  // cudaEvent_t on a GPU
};

// Copies bytes between host memory and memory of `stream`'s device, or within the device. Ordered
// on the stream; the host memory must stay until the stream has passed it. No-ops on meta.
void copy_to_device(Stream&, TensorView to, const void* from);
void copy_to_host(Stream&, void* to, ConstTensorView from);
// Within the stream's device: rows of one or two dims, which may be strided on both sides; one type
// and shape.
void copy_rows(Stream&, TensorView to, ConstTensorView from);

class Buffer {
 public:
  // `pinned`: host memory that a GPU copies from and to directly.
  enum class Kind : uint8_t { device, pinned };

  Buffer() = default;
  // Zeroed. On meta: no memory, data() is null. Throws Error{kConfig} that names `what` and the
  // sizes when the device has not that much left.
  Buffer(Device device, int64_t bytes, std::string what, Kind kind = Kind::device);
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;

  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  Device device() const { return device_; }
  // An arena over the whole buffer; a measuring one on meta.
  Arena arena(std::string name) const;

 private:
  Device device_;
  Kind kind_ = Kind::device;
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
};

// Fills memory of the stream's device with 0xFF bytes, in stream order: NaN in every float type, -1
// in integers. An error of the device shows at the stream's next call.
void poison(Stream&, std::byte* memory, int64_t bytes) noexcept;

}  // namespace nereus
