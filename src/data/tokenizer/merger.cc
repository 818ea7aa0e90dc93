#include "data/tokenizer/merger.h"

#include <algorithm>
#include <functional>

namespace nereus::data {
namespace {

constexpr size_t kSlots = size_t{1} << 16;
constexpr size_t kLongest = 64;  // bytes of a piece worth remembering, and of a short one
constexpr uint32_t kNone = ~uint32_t{0};

}  // namespace

Merger::Merger(const Vocabulary& vocabulary, bool whole_first)
    : vocabulary_(vocabulary), whole_first_(whole_first), slots_(kSlots) {}

void Merger::forget() {
  std::fill(slots_.begin(), slots_.end(), Slot{});
  used_ = 0;
  texts_.clear();
  ids_.clear();
}

void Merger::encode(std::string_view piece, std::vector<int32_t>& ids) {
  if (piece.size() > kLongest) return merge(piece, ids);
  const uint64_t hash = Vocabulary::hash_bytes(piece);
  size_t at = hash & (kSlots - 1);
  for (; slots_[at].length > 0; at = (at + 1) & (kSlots - 1)) {
    const Slot& s = slots_[at];
    if (s.hash == hash && s.length == piece.size() &&
        std::string_view(texts_).substr(s.text, s.length) == piece) {
      ids.insert(ids.end(), ids_.begin() + s.ids, ids_.begin() + s.ids + s.count);
      return;
    }
  }
  const size_t first = ids.size();
  merge(piece, ids);
  if (used_ > kSlots / 2) {
    forget();
    at = hash & (kSlots - 1);
  }
  slots_[at] = {hash, static_cast<uint32_t>(texts_.size()), static_cast<uint32_t>(piece.size()),
                static_cast<uint32_t>(ids_.size()), static_cast<uint32_t>(ids.size() - first)};
  ++used_;
  texts_ += piece;
  ids_.insert(ids_.end(), ids.begin() + static_cast<std::ptrdiff_t>(first), ids.end());
}

void Merger::merge(std::string_view piece, std::vector<int32_t>& ids) {
  if (whole_first_) {
    if (const int32_t id = vocabulary_.find(piece); id >= 0) return ids.push_back(id);
  }
  piece.size() > kLongest ? merge_long(piece, ids) : merge_short(piece, ids);
}

// Ranks of neighbours in an array, the lowest looked for anew after each merge: quadratic, and the
// fastest for words.
void Merger::merge_short(std::string_view piece, std::vector<int32_t>& ids) {
  const size_t first = ids.size();
  for (const char c : piece) {
    const int32_t id = vocabulary_.byte_token(static_cast<unsigned char>(c));
    if (id >= 0) ids.push_back(id);
  }
  const auto rank = [&](size_t i) {
    const Vocabulary::Merge* m = vocabulary_.merge(ids[i], ids[i + 1]);
    return m == nullptr ? kNone : m->rank;
  };
  ranks_.clear();
  for (size_t i = first; i + 1 < ids.size(); ++i) ranks_.push_back(rank(i));
  while (!ranks_.empty()) {
    const auto lowest = std::min_element(ranks_.begin(), ranks_.end());
    if (*lowest == kNone) return;
    const auto i = static_cast<size_t>(lowest - ranks_.begin());
    int32_t* const left = ids.data() + first + i;
    *left = static_cast<int32_t>(vocabulary_.merge(left[0], left[1])->id);
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(first + i + 1));
    ranks_.erase(lowest);
    if (i > 0) ranks_[i - 1] = rank(first + i - 1);
    if (i < ranks_.size()) ranks_[i] = rank(first + i);
  }
}

void Merger::push_pair(int32_t left) {
  if (left < 0) return;
  const Symbol& a = symbols_[static_cast<size_t>(left)];
  if (a.next < 0) return;
  const int32_t right_id = symbols_[static_cast<size_t>(a.next)].id;
  if (const Vocabulary::Merge* m = vocabulary_.merge(a.id, right_id)) {
    heap_.push_back({m->rank, left, a.id, right_id});
    std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
  }
}

// A heap of pairs by (rank, place) over a linked list: n log n.
void Merger::merge_long(std::string_view piece, std::vector<int32_t>& ids) {
  symbols_.clear();
  heap_.clear();
  for (const char c : piece) {
    const int32_t id = vocabulary_.byte_token(static_cast<unsigned char>(c));
    const auto at = static_cast<int32_t>(symbols_.size());
    if (id >= 0) symbols_.push_back({id, at - 1, at + 1});
  }
  if (symbols_.empty()) return;
  symbols_.back().next = -1;
  for (int32_t i = 0; i + 1 < static_cast<int32_t>(symbols_.size()); ++i) push_pair(i);
  while (!heap_.empty()) {
    const Pair p = heap_.front();
    std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
    heap_.pop_back();
    Symbol& a = symbols_[static_cast<size_t>(p.left)];
    if (a.id != p.left_id || a.next < 0) continue;  // merged since
    Symbol& b = symbols_[static_cast<size_t>(a.next)];
    if (b.id != p.right_id) continue;
    a.id = static_cast<int32_t>(vocabulary_.merge(a.id, b.id)->id);
    b.id = -1;
    a.next = b.next;
    if (b.next >= 0) symbols_[static_cast<size_t>(b.next)].previous = p.left;
    push_pair(a.previous);
    push_pair(p.left);
  }
  for (int32_t i = 0; i >= 0; i = symbols_[static_cast<size_t>(i)].next)
    ids.push_back(symbols_[static_cast<size_t>(i)].id);
}

}  // namespace nereus::data
