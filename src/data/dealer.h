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

// Assigns documents to streams in their order. Every rank and reader makes the same assignment,
// without tokenising any.
//
// `global`: to the stream with the fewest bytes so far. All streams are consumed at the same pace,
// so the backlog of one stream stays small however long the run; with round robin the difference
// would grow with the square root of the number of documents. A few random bytes are added to each
// document. Otherwise a small set that is read many times might be assigned the same way every
// time, and one stream might get only broken lines.
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
