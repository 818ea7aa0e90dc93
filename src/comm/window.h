// Memory that all ranks of a group see: each has a block of the same size, and reads and writes the
// others' by plain loads and stores. Threads of one process share host memory; GPUs that NVLink or
// PCIe joins map each other's (NCCL's symmetric windows).
#pragma once

#include <cstddef>
#include <cstdint>

#include "device/device.h"

namespace nereus {

class Window {
 public:
  virtual ~Window() = default;
  Window(const Window&) = delete;
  Window& operator=(const Window&) = delete;

  std::byte* data() const { return data_; }  // this rank's block, zeroed when it is made
  int64_t bytes() const { return bytes_; }
  // i64 [ranks], memory of the block's device: where each rank's block lies in this rank's eyes.
  ConstTensorView bases() const { return bases_; }

  // A place in the streams of all ranks: what is enqueued after it sees what any rank enqueued in
  // front of it, and comes after it. The host does not wait on a GPU. Errors as of a barrier.
  virtual void meet(Stream&) = 0;

 protected:
  Window() = default;
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
  ConstTensorView bases_;
};

}  // namespace nereus
