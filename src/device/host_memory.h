// Host memory for copies that go on beside kernels: pinned for a GPU. It is made a piece at a time,
// so that a thread can do it while steps run: addresses are there from the start, make() gives them
// memory.
#pragma once

#include <atomic>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "device/device.h"

namespace nereus {

class HostMemory {
 public:
  static constexpr int64_t kPiece = int64_t{128} << 20;  // bytes that are pinned at once

  // Throws Error{kConfig} that names `what` where there are not that many addresses.
  HostMemory(Device, int64_t bytes, std::string what);
  ~HostMemory();
  HostMemory(const HostMemory&) = delete;
  HostMemory& operator=(const HostMemory&) = delete;

  // Takes the memory; a second call finds it taken. On any thread. Throws Error{kConfig} where the
  // machine does not give it.
  void make();
  // make() on another thread returns soon, with less.
  void stop() { stop_ = true; }

  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  Device device() const { return device_; }

  // Enqueues a copy to the byte `to` of this memory and those after it. All of it has been made.
  void copy_here(Stream&, int64_t to, ConstTensorView from) const;

 private:
  Device device_;
  int64_t bytes_;
  std::string what_;
  std::byte* data_ = nullptr;
  std::mutex making_;
  int64_t made_ = 0;                      // bytes
  [[maybe_unused]] bool pinned_ = false;  // what was made
  std::atomic<bool> stop_{false};
};

// A thread that was not there when the device's stream was made calls it before it uses the stream
// or its events.
void use_on_this_thread(Device);

// Calls `work` when the stream has come so far, and what is enqueued later waits for it. On a GPU
// that is on another thread, and `work` may not use the device; on the CPU it is called at once.
void call_on_host(Stream&, std::function<void()> work);

}  // namespace nereus
