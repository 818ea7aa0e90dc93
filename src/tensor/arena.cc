#include "tensor/arena.h"

#include <algorithm>
#include <string_view>

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
  if (!measuring() && used_ + bytes > capacity_) {
    std::string holders;
    for (const Entry& e : sum_by_name(entries_))
      holders += fmt::format("\n    {:>12} bytes  {}", e.bytes, e.what);
    NEREUS_FAIL(kContract, "arena {}: {} {} {} needs {} bytes, but {} of {} are taken by{}", name_,
                what, dtype, shape, bytes, used_, capacity_, holders);
  }
  const TensorView view(measuring() ? nullptr : base_ + used_, dtype, shape);
  used_ += bytes;
  entries_.push_back({what, bytes});
  if (used_ > peak_) {
    peak_ = used_;
    if (measuring()) peak_entries_ = entries_;
  }
  return view;
}

void Arena::release(Mark mark) {
  while (entries_.size() > mark) {
    used_ -= entries_.back().bytes;
    entries_.pop_back();
  }
}

std::vector<Arena::Entry> Arena::peak_entries() const { return sum_by_name(peak_entries_); }

}  // namespace nereus
