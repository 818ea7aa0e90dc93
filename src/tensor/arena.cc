#include "tensor/arena.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "base/check.h"
#include "tensor/format.h"

namespace nereus {
namespace {

constexpr size_t kReservedEntries = 1 << 14;  // so that take() never allocates in a step

std::vector<Arena::Entry> sum_by_name(const std::vector<Arena::Entry>& entries) {
  std::vector<Arena::Entry> sums;
  for (const Arena::Entry& e : entries) {
    const auto same = std::find_if(sums.begin(), sums.end(), [&](const Arena::Entry& s) {
      return std::string_view(s.what) == e.what;
    });
    if (same == sums.end()) {
      sums.push_back(e);
    } else {
      same->bytes += e.bytes;
    }
  }
  std::stable_sort(sums.begin(), sums.end(),
                   [](const Arena::Entry& a, const Arena::Entry& b) { return a.bytes > b.bytes; });
  return sums;
}

}  // namespace

Arena::Arena(std::string name) : name_(std::move(name)) {}

Arena::Arena(std::string name, std::byte* base, int64_t bytes)
    : name_(std::move(name)), base_(base), capacity_(bytes) {
  NEREUS_CHECK(kContract, base != nullptr && bytes >= 0, "arena {}: no memory", name_);
  entries_.reserve(kReservedEntries);
}

TensorView Arena::take(DType dtype, const Shape& shape, const char* what) {
  const int64_t bytes = (shape.count() * size_of(dtype) + kAlignment - 1) / kAlignment * kAlignment;
  const int64_t taken = used_ + (other_ != nullptr ? other_->used_ : 0);
  if (!measuring() && taken + bytes > capacity_) {
    std::string holders;
    for (const Entry& e : sum_by_name(all_entries()))
      holders += fmt::format("\n    {:>12} bytes  {}", e.bytes, e.what);
    NEREUS_FAIL(kContract, "arena {}: {} {} {} needs {} bytes, but {} of {} are taken by{}", name_,
                what, dtype, shape, bytes, taken, capacity_, holders);
  }
  std::byte* data = nullptr;
  if (!measuring()) data = from_end_ ? base_ + capacity_ - used_ - bytes : base_ + used_;
  used_ += bytes;
  entries_.push_back({what, bytes});
  peak_ = std::max(peak_, used_);
  recent_peak_ = std::max(recent_peak_, taken + bytes);
  if (taken + bytes > shared_peak_) {
    shared_peak_ = taken + bytes;
    if (other_ != nullptr) other_->shared_peak_ = shared_peak_;
    if (measuring()) peak_entries_ = all_entries();
    if (measuring() && other_ != nullptr) other_->peak_entries_ = peak_entries_;
  }
  return TensorView(data, dtype, shape);
}

// What the other arena took is in its own.
int64_t Arena::take_recent_peak() {
  const int64_t now = used_ + (other_ != nullptr ? other_->used_ : 0);
  int64_t peak = std::exchange(recent_peak_, now);
  if (other_ != nullptr) peak = std::max(peak, std::exchange(other_->recent_peak_, now));
  return peak;
}

void Arena::share(Arena& other) {
  NEREUS_CHECK(kContract,
               base_ == other.base_ && capacity_ == other.capacity_ && used_ == 0 &&
                   other.used_ == 0 && other_ == nullptr && other.other_ == nullptr,
               "arenas {} and {} cannot share a block", name_, other.name_);
  // Ends stay aligned: what is taken from the end is a multiple of the alignment.
  if (!measuring()) capacity_ = other.capacity_ = capacity_ / kAlignment * kAlignment;
  other_ = &other;
  other.other_ = this;
  other.from_end_ = true;
}

void Arena::move_to(std::byte* base) {
  NEREUS_CHECK(kContract, base != nullptr && !measuring() && used_ == 0 && other_ == nullptr,
               "arena {}: {} bytes are taken where it should move", name_, used_);
  base_ = base;
}

std::vector<Arena::Entry> Arena::all_entries() const {
  std::vector<Entry> all = entries_;
  if (other_ != nullptr) all.insert(all.end(), other_->entries_.begin(), other_->entries_.end());
  return all;
}

void Arena::release(Mark mark) {
  const int64_t before = used_;
  while (entries_.size() > mark) {
    used_ -= entries_.back().bytes;
    entries_.pop_back();
  }
  if (on_release_ && !measuring() && used_ < before)
    on_release_(base_ + (from_end_ ? capacity_ - before : used_), before - used_);
}

std::vector<Arena::Entry> Arena::peak_entries() const { return sum_by_name(peak_entries_); }

}  // namespace nereus
