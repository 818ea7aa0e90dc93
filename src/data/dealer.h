// Which stream each document of a data set goes to.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace nereus::data {

// Where a reader is: the line that it reads next.
struct ReadPosition {
  int64_t document = 0;         // of the run: counts non-empty lines over all passes
  int64_t epoch = 0;            // passes before this one
  int64_t shard = 0, line = 0;  // lines of the shard already read
  int64_t index = 0;            // of the document in this pass
  std::vector<int64_t> loads;   // the dealer's
};

// Deals documents in their order; every rank and reader deals all of them the same way, without
// tokenising any.
//
// `global`: to the stream that has the fewest bytes so far. All streams are read at the same pace,
// so what waits in one of them while another is short stays small, for ever: round robin would let
// the difference grow with the square root of the number of documents. A few random bytes are added
// to each, or a small set that is read many times might be dealt the same way every time, with a
// stream that gets only broken lines.
// `split`: to stream 0 every `size`-th document of a pass, beginning with `rank`; others to none.
class Dealer {
 public:
  static Dealer global(int64_t streams);
  static Dealer split(int64_t size, int64_t rank);

  // The stream (-1: none) of the document at `at`, a line of `bytes`. Updates at.loads.
  int64_t deal(ReadPosition& at, size_t bytes) const;
  // Before the first document.
  ReadPosition start() const;

 private:
  int64_t streams_ = 1, size_ = 0, rank_ = 0;  // size 0: global
};

}  // namespace nereus::data
