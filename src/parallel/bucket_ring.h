// A few buffers that the buckets of a store share in turn, where there is no memory for all of them
// at once.
//
// A bucket is open while kernels use its buffer; closed, it stays where it is until another needs
// the place, the one that was used longest ago first. Work on a buffer is ordered by events, so
// that it may be filled or emptied on a stream of its own.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "device/device.h"

namespace nereus {

class BucketRing {
 public:
  BucketRing() = default;
  BucketRing(Device, int slots, int64_t bytes, const std::string& what);

  struct Slot {
    Slot(Device device, int64_t bytes, const std::string& what)
        : buffer(device, bytes, what), filled(device), left(device) {}
    Buffer buffer;
    int bucket = kNone;
    bool open = false;
    int64_t used = 0;    // when it was taken last
    Event filled, left;  // what fills it, and what used it, has been done
  };
  static constexpr int kNone = -1;

  Slot* find(int bucket);  // null: it has no buffer
  const Slot* find(int bucket) const;
  // The bucket's buffer, or another's that is not open, which is then this one's. Throws
  // Error{kContract} when all are open.
  Slot& take(int bucket);
  void forget();  // no bucket has a buffer; all are closed
  int64_t bytes() const;

 private:
  std::vector<std::unique_ptr<Slot>> slots_;
  int64_t clock_ = 0;
};

}  // namespace nereus
