#include "base/philox.h"
#include "data/row_source.h"
#include "data/source_state.h"

namespace nereus::data {
namespace {

class RandomRows final : public RowSource {
 public:
  RandomRows(const RowPlan& plan, int64_t vocab_size, uint64_t seed, int64_t first_row)
      : plan_(plan),
        vocab_size_(static_cast<uint64_t>(vocab_size)),
        seed_(seed),
        first_row_(first_row) {}

  int64_t next(int64_t rows, std::span<int32_t> inputs, std::span<int32_t> labels) override {
    const auto S = static_cast<size_t>(plan_.seq_len);
    for (int64_t r = 0; r < rows; ++r) {
      const auto row = static_cast<uint64_t>(first_row_ + plan_.global_row(rows_++));
      const size_t begin = static_cast<size_t>(r) * S;
      for (size_t i = 0; i <= S; ++i) {
        const uint64_t bits = philox_u32(seed_, row, i);
        const auto id = static_cast<int32_t>((bits * vocab_size_) >> 32);
        if (i < S) inputs[begin + i] = id;
        if (i > 0) labels[begin + i - 1] = id;
      }
    }
    return rows;
  }
  SourceStatus status() const override { return {.rows = rows_}; }
  std::string save_state() override {
    return row_state("random", next_step(plan_, first_row_, rows_));
  }

 private:
  RowPlan plan_;
  uint64_t vocab_size_, seed_;
  int64_t first_row_;  // of the run, when it goes on
  int64_t rows_ = 0;
};

}  // namespace

std::unique_ptr<RowSource> random_rows(const RowPlan& plan, int64_t vocab_size, uint64_t seed,
                                       const SavedStates& saved) {
  return std::make_unique<RandomRows>(plan, vocab_size, seed, parse_row_state(saved, "random"));
}

}  // namespace nereus::data
