// Device memory that GPU ops need beside their arguments: partial sums, histograms. One block a
// stream, shared by all ops, since those of a stream follow one another. It grows in the first
// step, to what the largest op asks for, and never again.
#pragma once

#include <algorithm>

#include "device/device.h"

namespace nereus::ops {

class Workspace : public StreamState {
 public:
  explicit Workspace(Stream& stream) : stream_(stream) {}
  int64_t bytes() const override { return buffer_.bytes(); }

  // `count` elements, aligned to 256 bytes; contents undefined; valid until the op's last launch.
  template <class T>
  T* take(int64_t count) {
    const int64_t need = count * static_cast<int64_t>(sizeof(T));
    if (need > buffer_.bytes()) {
      stream_.synchronize();  // an op may still be using the old block
      buffer_ = Buffer();
      buffer_ = Buffer(stream_.device(), std::max(need, kLeastBytes), "workspace of kernels");
    }
    return reinterpret_cast<T*>(buffer_.data());
  }

 private:
  static constexpr int64_t kLeastBytes = int64_t{32} << 20;
  Stream& stream_;
  Buffer buffer_;
};

}  // namespace nereus::ops
