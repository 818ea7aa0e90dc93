#include "device/device.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <utility>

#include "base/check.h"
#include "device/cuda_runtime.h"

namespace nereus {

// Expands to its argument in a build with CUDA, otherwise to nothing: without CUDA there are no GPU
// streams.
#ifdef NEREUS_CUDA
#define NEREUS_GPU(...) __VA_ARGS__
#else
#define NEREUS_GPU(...)
#endif

Device choose_device(std::optional<Device::Kind> kind, int local_rank) {
  if (kind == Device::Kind::cuda) return Device::cuda(local_rank);
  NEREUS_GPU(if (!kind && cuda::device_count() > 0) return Device::cuda(local_rank);)
  return Device::cpu();
}

Stream::Stream(Device device, ThreadPool* pool, [[maybe_unused]] Priority priority)
    : device_(device), pool_(pool) {
  NEREUS_CHECK(kContract, !on_cpu() || pool != nullptr, "a CPU stream needs a thread pool");
  if (!on_gpu()) return;
  NEREUS_CHECK(kConfig, kHasCuda,
               "a GPU was asked for, and this program was built without GPU code. Build it with "
               "`make PRESET=cuda` (docs/operations.md), or train on the CPU with "
               "--device.kind=cpu.");
  NEREUS_GPU(native_ = cuda::make_stream(device.index, priority == Priority::high);
             sm_count_ = cuda::properties(device.index).sm_count;
             free_at_start_ = cuda::memory_info(device.index).free;)
}
int64_t Stream::free_now() const {
  NEREUS_GPU(if (on_gpu()) return cuda::memory_info(device_.index).free;)
  return 0;
}
Stream::~Stream() {
  states_.clear();
  NEREUS_GPU(if (native_ != nullptr) cuda::destroy_stream(native_);)
}
void Stream::synchronize() { NEREUS_GPU(if (on_gpu()) cuda::synchronize_stream(native_);) }

Event::Event(Device device) : device_(device) {
  NEREUS_GPU(if (device.kind == Device::Kind::cuda) native_ = cuda::make_event(false);)
}
Event::~Event() { NEREUS_GPU(if (native_ != nullptr) cuda::destroy_event(native_);) }
void Event::record([[maybe_unused]] Stream& stream) {
  NEREUS_GPU(if (native_ != nullptr) cuda::record_event(native_, stream.native());)
}
void Event::wait([[maybe_unused]] Stream& stream) const {
  NEREUS_GPU(if (native_ != nullptr) cuda::wait_event(native_, stream.native());)
}
void Event::synchronize() const {
  NEREUS_GPU(if (native_ != nullptr) cuda::synchronize_event(native_);)
}

void copy_to_device(Stream& stream, TensorView to, const void* from) {
  NEREUS_CHECK(kContract, to.contiguous(), "copy_to_device: the target is not contiguous");
  if (to.bytes() == 0) return;
  if (stream.on_cpu()) std::memcpy(to.data, from, static_cast<size_t>(to.bytes()));
  NEREUS_GPU(if (stream.on_gpu()) cuda::copy_async(to.data, from, to.bytes(), stream.native());)
}

void copy_to_host(Stream& stream, void* to, ConstTensorView from) {
  NEREUS_CHECK(kContract, from.contiguous(), "copy_to_host: the source is not contiguous");
  if (from.bytes() == 0) return;
  if (stream.on_cpu()) std::memcpy(to, from.data, static_cast<size_t>(from.bytes()));
  NEREUS_GPU(if (stream.on_gpu()) cuda::copy_async(to, from.data, from.bytes(), stream.native());)
}

void copy_rows(Stream& stream, TensorView to, ConstTensorView from) {
  NEREUS_CHECK(kContract, to.shape == from.shape && to.dtype == from.dtype && to.rank() <= 2,
               "copy_rows: {} from {}", to.to_string(), from.to_string());
  if (to.bytes() == 0) return;
  const int64_t rows = to.rank() == 2 ? to.dim(0) : 1, element = size_of(to.dtype);
  const int64_t width = to.dim(to.rank() - 1) * element;
  const int64_t to_step = to.rank() == 2 ? to.row_stride() * element : width;
  const int64_t from_step = to.rank() == 2 ? from.row_stride() * element : width;
  if (stream.on_cpu())
    for (int64_t r = 0; r < rows; ++r)
      std::memcpy(to.data + r * to_step, from.data + r * from_step, static_cast<size_t>(width));
  NEREUS_GPU(if (stream.on_gpu()) cuda::copy_rows_async(to.data, to_step, from.data, from_step,
                                                        width, rows, stream.native());)
}

void poison(Stream& stream, std::byte* memory, int64_t bytes) noexcept {
  if (stream.on_cpu()) std::memset(memory, 0xFF, static_cast<size_t>(bytes));
  NEREUS_GPU(if (stream.on_gpu()) cuda::fill_async(memory, 0xFF, bytes, stream.native());)
}

Buffer::Buffer(Device device, int64_t bytes, std::string what, Kind kind)
    : device_(device), kind_(kind), bytes_(bytes) {
  if (device.kind == Device::Kind::meta || bytes == 0) return;
#ifdef NEREUS_CUDA
  if (device.kind == Device::Kind::cuda) {
    if (kind == Kind::pinned) {
      data_ = static_cast<std::byte*>(cuda::allocate_pinned(bytes));
      NEREUS_CHECK(kConfig, data_ != nullptr,
                   "{} needs {:.2f} GiB of pinned host memory, which this machine does not give.",
                   what, static_cast<double>(bytes) / (1 << 30));
      std::memset(data_, 0, static_cast<size_t>(bytes));
      return;
    }
    data_ = static_cast<std::byte*>(cuda::allocate(device.index, bytes));
    if (data_ == nullptr) {
      const cuda::MemoryInfo memory = cuda::memory_info(device.index);
      NEREUS_FAIL(kConfig, "{} needs {:.2f} GiB, and GPU {} has {:.2f} GiB of its {:.2f} GiB left.",
                  what, static_cast<double>(bytes) / (1 << 30), device.index,
                  static_cast<double>(memory.free) / (1 << 30),
                  static_cast<double>(memory.total) / (1 << 30));
    }
    cuda::zero(data_, bytes);
    return;
  }
#endif
  // Pages come from the system when first touched, and are zero.
  void* memory = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  NEREUS_CHECK(kConfig, memory != MAP_FAILED,
               "{} needs {:.2f} GiB of memory, which this machine does not give: {}", what,
               static_cast<double>(bytes) / (1 << 30), std::strerror(errno));
  madvise(memory, static_cast<size_t>(bytes), MADV_HUGEPAGE);
  data_ = static_cast<std::byte*>(memory);
}

Buffer::~Buffer() {
  if (data_ == nullptr) return;
#ifdef NEREUS_CUDA
  if (device_.kind == Device::Kind::cuda) {
    kind_ == Kind::pinned ? cuda::release_pinned(data_) : cuda::release(data_);
    return;
  }
#endif
  munmap(data_, static_cast<size_t>(bytes_));
}

Buffer::Buffer(Buffer&& other) noexcept
    : device_(other.device_),
      kind_(other.kind_),
      data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(kind_, other.kind_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

Arena Buffer::arena(std::string name) const {
  if (data_ == nullptr) return Arena(std::move(name));
  return Arena(std::move(name), data_, bytes_);
}

}  // namespace nereus
