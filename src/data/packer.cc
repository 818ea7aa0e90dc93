#include "data/packer.h"

#include <algorithm>
#include <utility>

namespace nereus::data {

void Packer::append(int64_t document, std::vector<int32_t> ids, int64_t skip) {
  const int64_t rest = static_cast<int64_t>(ids.size()) - skip;
  if (rest <= 0) return;
  // Only the first document of a run has a `skip`: no tokens wait before it.
  if (pieces_.empty()) at_ = static_cast<size_t>(skip);
  pieces_.push_back({document, std::move(ids)});
  waiting_ += rest;
}

bool Packer::take(int64_t seq_len, int32_t* inputs, int32_t* labels) {
  if (waiting_ <= seq_len) return false;
  waiting_ -= seq_len + 1;
  for (int64_t done = 0; done <= seq_len;) {
    const std::vector<int32_t>& ids = pieces_.front().ids;
    const int64_t n = std::min(seq_len + 1 - done, static_cast<int64_t>(ids.size() - at_));
    if (inputs != nullptr) {
      const auto from = ids.begin() + static_cast<std::ptrdiff_t>(at_);
      std::copy(from, from + std::min(n, seq_len - done), inputs + done);
      const int64_t first = done == 0 ? 1 : 0;  // the row's first token is no label
      std::copy(from + first, from + n, labels + done + first - 1);
    }
    done += n;
    at_ += static_cast<size_t>(n);
    if (at_ == ids.size()) {
      pieces_.pop_front();
      at_ = 0;
    }
  }
  return true;
}

std::optional<TokenPosition> Packer::position() const {
  if (pieces_.empty()) return std::nullopt;
  return TokenPosition{pieces_.front().document, static_cast<int64_t>(at_)};
}

}  // namespace nereus::data
