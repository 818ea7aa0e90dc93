#include "device/host_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/check.h"
#include "device/cuda_runtime.h"

namespace nereus {
namespace {

// A write to every page takes it from the system.
void touch(std::byte* memory, int64_t bytes) {
  constexpr int64_t kPage = 4096;
  for (int64_t i = 0; i < bytes; i += kPage)
    static_cast<volatile unsigned char*>(static_cast<void*>(memory))[i] = 0;
}

}  // namespace

void use_on_this_thread([[maybe_unused]] Device device) {
#ifdef NEREUS_CUDA
  if (device.kind == Device::Kind::cuda) cuda::use_device_again(device.index);
#endif
}

void call_on_host(Stream& stream, std::function<void()> work) {
  if (stream.on_cpu()) return work();
#ifdef NEREUS_CUDA
  if (!stream.on_gpu()) return;
  auto call = std::make_unique<std::function<void()>>(std::move(work));
  cuda::call_on_host(
      stream.native(),
      [](void* data) {
        const std::unique_ptr<std::function<void()>> mine(
            static_cast<std::function<void()>*>(data));
        (*mine)();
      },
      call.get());
  call.release();
#endif
}

HostMemory::HostMemory(Device device, int64_t bytes, std::string what)
    : device_(device), bytes_(bytes), what_(std::move(what)) {
  if (bytes == 0) return;
  void* const memory = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  NEREUS_CHECK(kConfig, memory != MAP_FAILED,
               "{} needs {:.2f} GiB of memory, which this machine does not give: {}", what_,
               static_cast<double>(bytes) / (1 << 30), std::strerror(errno));
  madvise(memory, static_cast<size_t>(bytes), MADV_HUGEPAGE);
  data_ = static_cast<std::byte*>(memory);
}

HostMemory::~HostMemory() {
  if (data_ == nullptr) return;
#ifdef NEREUS_CUDA
  for (int64_t at = 0; pinned_ && at < made_; at += kPiece) cuda::unpin(data_ + at);
#endif
  munmap(data_, static_cast<size_t>(bytes_));
}

void HostMemory::make() {
  const std::lock_guard lock(making_);
  while (made_ < bytes_ && !stop_) {
    const int64_t n = std::min(kPiece, bytes_ - made_);
    touch(data_ + made_, n);
#ifdef NEREUS_CUDA
    if (device_.kind == Device::Kind::cuda) {
      NEREUS_CHECK(kConfig, cuda::pin(device_.index, data_ + made_, n),
                   "{} needs {:.2f} GiB of pinned host memory, and this machine gave {:.2f}.",
                   what_, static_cast<double>(bytes_) / (1 << 30),
                   static_cast<double>(made_) / (1 << 30));
      pinned_ = true;
    }
#endif
    made_ += n;
  }
}

// No copy goes beyond a piece: each is pinned by itself.
void HostMemory::copy_here(Stream& stream, int64_t to, ConstTensorView from) const {
  NEREUS_CHECK(kContract, made_ == bytes_ && from.contiguous() && to + from.bytes() <= bytes_,
               "{}: {} bytes to byte {} of {}, of which there are {}", what_, from.bytes(), to,
               bytes_, made_);
  const int64_t end = to + from.bytes();
  const std::byte* source = from.data;
  while (to < end) {
    const int64_t n = std::min(end, (to / kPiece + 1) * kPiece) - to;
    copy_to_host(stream, data_ + to, ConstTensorView(source, DType::u8, {n}));
    source += n;
    to += n;
  }
}

}  // namespace nereus
