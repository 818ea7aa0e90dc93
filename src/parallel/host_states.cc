#include "parallel/host_states.h"

#include <algorithm>

namespace nereus {

HostStates::HostStates(Device device, int64_t elements, const std::vector<State>& states,
                       int64_t chunk)
    : device_(device), chunk_(std::min(chunk, elements)) {
  for (auto& slot : slots_) slot = std::make_unique<Slot>(device);
  for (const State& s : states) {
    dtypes_.push_back(s.dtype);
    host_.emplace_back(device, elements * size_of(s.dtype), s.what + " in host memory",
                       Buffer::Kind::pinned);
    for (auto& slot : slots_)
      slot->buffers.emplace_back(device, chunk_ * size_of(s.dtype), s.what + ", a chunk");
  }
  if (device.kind != Device::Kind::cuda) return;
  in_ = std::make_unique<Stream>(device);
  out_ = std::make_unique<Stream>(device);
}

void HostStates::visit(Stream& stream, int64_t begin, int64_t end, bool write, Body body,
                       CopyBeside* copied) {
  Stream& in = in_ ? *in_ : stream;
  Stream& out = out_ ? *out_ : stream;
  for (const auto& slot : slots_) slot->free.wait(in);  // what the last visit changed is there
  size_t turn = 0;
  for (int64_t first = begin; first < end; first += chunk_, turn ^= 1) {
    Slot& slot = *slots_[turn];
    const int64_t n = std::min(chunk_, end - first);
    std::vector<TensorView> views;
    slot.free.wait(in);
    for (size_t i = 0; i < host_.size(); ++i) {
      views.emplace_back(slot.buffers[i].data(), dtypes_[i], Shape{n});
      if (!stream.on_meta())
        copy_to_device(in, views[i], host_[i].data() + first * size_of(dtypes_[i]));
    }
    slot.filled.record(in);
    slot.filled.wait(stream);
    body(first, views);
    slot.used.record(stream);
    slot.used.wait(out);
    if (write && copied != nullptr) copied->wait_on_host(out, first + n);
    for (size_t i = 0; write && i < host_.size() && !stream.on_meta(); ++i)
      copy_to_host(out, host_[i].data() + first * size_of(dtypes_[i]), views[i]);
    slot.free.record(out);
  }
  for (const auto& slot : slots_) slot->free.wait(stream);
}

int64_t HostStates::device_bytes() const {
  int64_t sum = 0;
  for (const auto& slot : slots_)
    for (const Buffer& b : slot->buffers) sum += b.bytes();
  return sum;
}

}  // namespace nereus
