#include "parallel/bucket_ring.h"

#include "base/check.h"

namespace nereus {

BucketRing::BucketRing(Device device, int slots, int64_t bytes, const std::string& what) {
  for (int i = 0; i < slots; ++i) slots_.push_back(std::make_unique<Slot>(device, bytes, what));
}

const BucketRing::Slot* BucketRing::find(int bucket) const {
  for (const auto& slot : slots_)
    if (slot->bucket == bucket) return slot.get();
  return nullptr;
}
BucketRing::Slot* BucketRing::find(int bucket) {
  return const_cast<Slot*>(std::as_const(*this).find(bucket));
}

BucketRing::Slot& BucketRing::take(int bucket) {
  Slot* slot = find(bucket);
  if (slot == nullptr)
    for (const auto& other : slots_)
      if (!other->open && (slot == nullptr || other->used < slot->used)) slot = other.get();
  NEREUS_CHECK(kContract, slot != nullptr, "bucket {} is one more than the {} that can be open",
               bucket, slots_.size());
  slot->bucket = bucket;
  slot->used = ++clock_;
  return *slot;
}

void BucketRing::forget() {
  for (const auto& slot : slots_) {
    slot->bucket = kNone;
    slot->open = false;
  }
}

int64_t BucketRing::bytes() const {
  int64_t sum = 0;
  for (const auto& slot : slots_) sum += slot->buffer.bytes();
  return sum;
}

}  // namespace nereus
