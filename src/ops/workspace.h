// Device memory that GPU ops need in addition to their arguments: partial sums, histograms. One
// block a stream, shared by all ops, since those of a stream follow one another.
//
// Its size is measured before the first step: a step that is run for its sizes on a meta stream
// made for the GPU's stream (Stream::meta_for) reserves what each op will ask for. From then on
// nothing is allocated, and an op that asks for more is an Error{kContract}. On a stream that
// nothing was measured for (single ops of tests and benchmarks) the block grows when an op needs
// more, after a wait for the stream.
#pragma once

#include "device/device.h"

namespace nereus::ops {

class Workspace : public StreamState {
 public:
  // The block is at least this large: an op whose need is smaller and does not depend on shapes
  // (it should assert that) needs no measuring.
  static constexpr int64_t kLeastBytes = int64_t{32} << 20;

  explicit Workspace(Stream& stream) : stream_(stream) {}
  int64_t bytes() const override { return buffer_.bytes(); }

  // While measuring: an op will take `count` elements.
  template <class T>
  void reserve(int64_t count) {
    reserve_bytes(count * static_cast<int64_t>(sizeof(T)));
  }

  // `count` elements, aligned to 256 bytes; contents undefined; valid until the op's last launch.
  template <class T>
  T* take(int64_t count) {
    return reinterpret_cast<T*>(take_bytes(count * static_cast<int64_t>(sizeof(T))));
  }

 private:
  void reserve_bytes(int64_t bytes);
  std::byte* take_bytes(int64_t bytes);
  void grow(int64_t bytes);

  Stream& stream_;
  Buffer buffer_;
  bool measured_ = false;
};

}  // namespace nereus::ops
