#include "data/dealer.h"

#include <algorithm>

#include "base/philox.h"

namespace nereus::data {

Dealer Dealer::global(int64_t streams) {
  Dealer out;
  out.streams_ = streams;
  return out;
}

Dealer Dealer::split(int64_t size, int64_t rank) {
  Dealer out;
  out.size_ = size;
  out.rank_ = rank;
  return out;
}

ReadPosition Dealer::start() const {
  ReadPosition out;
  if (size_ == 0) out.loads.assign(static_cast<size_t>(streams_), 0);
  return out;
}

int64_t Dealer::deal(ReadPosition& at, size_t bytes) const {
  if (size_ > 0) return at.index % size_ == rank_ ? 0 : -1;
  constexpr uint64_t kSeed = 0;
  constexpr uint32_t kJitter = 64;  // bytes
  const auto least = std::min_element(at.loads.begin(), at.loads.end());
  *least += static_cast<int64_t>(bytes) +
            philox_u32(kSeed, hash_name("dealer"), static_cast<uint64_t>(at.document)) % kJitter;
  return least - at.loads.begin();
}

}  // namespace nereus::data
