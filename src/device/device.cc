#include "device/device.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <utility>

#include "base/check.h"

namespace nereus {

Stream::Stream(Device device, ThreadPool* pool) : device_(device), pool_(pool) {
  NEREUS_CHECK(kContract, !on_cpu() || pool != nullptr, "a CPU stream needs a thread pool");
  NEREUS_CHECK(kContract, !on_gpu() || kHasCuda, "this build has no CUDA");
}
Stream::~Stream() = default;
void Stream::synchronize() {}

Event::Event(Device device) : device_(device) {
  NEREUS_CHECK(kContract, device.kind != Device::Kind::cuda || kHasCuda, "this build has no CUDA");
}
Event::~Event() = default;
void Event::record(Stream&) {}
void Event::wait(Stream&) const {}
void Event::synchronize() const {}

void copy_to_device(Stream& stream, TensorView to, const void* from) {
  NEREUS_CHECK(kContract, to.contiguous(), "copy_to_device: the target is not contiguous");
  if (stream.on_cpu() && to.bytes() > 0)
    std::memcpy(to.data, from, static_cast<size_t>(to.bytes()));
}

void copy_to_host(Stream& stream, void* to, ConstTensorView from) {
  NEREUS_CHECK(kContract, from.contiguous(), "copy_to_host: the source is not contiguous");
  if (stream.on_cpu() && from.bytes() > 0)
    std::memcpy(to, from.data, static_cast<size_t>(from.bytes()));
}

Buffer::Buffer(Device device, int64_t bytes, std::string what) : device_(device), bytes_(bytes) {
  if (device.kind != Device::Kind::cpu || bytes == 0) return;
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
  if (data_ != nullptr) munmap(data_, static_cast<size_t>(bytes_));
}

Buffer::Buffer(Buffer&& other) noexcept
    : device_(other.device_),
      data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

Arena Buffer::arena(std::string name) const {
  if (data_ == nullptr) return Arena(std::move(name));
  return Arena(std::move(name), data_, bytes_);
}

}  // namespace nereus
