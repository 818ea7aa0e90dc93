// Optimizer states in pinned host memory, which pass through device memory a chunk at a time.
//
// There are two chunks' worth of device memory. While a chunk is computed with, the next one comes
// in on one stream and the last one goes out on another. On the CPU the same is done with plain
// memory and no streams, which is how it is tested.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "device/device.h"
#include "parallel/copy_beside.h"

namespace nereus {

class HostStates {
 public:
  struct State {
    DType dtype;
    std::string what;
  };
  static constexpr int64_t kChunk = int64_t{8} << 20;  // elements

  // States of `elements` elements each, all zero; `chunk` elements are on the device at a time.
  HostStates(Device, int64_t elements, const std::vector<State>&, int64_t chunk);

  // Calls body(first, views) for elements [first, first + n) of [begin, end), chunk after chunk:
  // views[i] is state i of them, n elements in device memory, filled as of `stream`. What the body
  // enqueues there may change them, and with `write` the changes are kept. All is done when
  // `stream` has passed what is enqueued on it, and in its order.
  // A chunk in host memory is not changed before it has been copied from there.
  using Body = FunctionRef<void(int64_t first, const std::vector<TensorView>& views)>;
  void visit(Stream& stream, int64_t begin, int64_t end, bool write, Body body,
             CopyBeside* copied = nullptr);

  // State `i`, all of it, in host memory: as of the last visit() when its stream is idle.
  TensorView host(size_t i) const {
    return TensorView(host_[i].data(), dtypes_[i], {host_[i].bytes() / size_of(dtypes_[i])});
  }

  size_t size() const { return host_.size(); }  // states

  int64_t host_bytes(size_t state) const { return host_[state].bytes(); }
  int64_t device_bytes() const;

 private:
  struct Slot {
    explicit Slot(Device device) : filled(device), used(device), free(device) {}
    std::vector<Buffer> buffers;  // by state
    Event filled, used, free;
  };

  Device device_;
  int64_t chunk_;
  std::vector<DType> dtypes_;
  std::vector<Buffer> host_;  // by state
  std::array<std::unique_ptr<Slot>, 2> slots_;
  std::unique_ptr<Stream> in_, out_;  // a GPU's
};

}  // namespace nereus
