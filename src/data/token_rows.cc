#include <algorithm>
#include <filesystem>

#include "base/check.h"
#include "base/log.h"
#include "data/npy.h"
#include "data/row_source.h"
#include "tensor/safetensors.h"

namespace nereus::data {
namespace {

// All rows in memory as i32: pre-tokenised sets are small, or mapped files' pages are shared.
class TokenRows final : public RowSource {
 public:
  TokenRows(std::string path, const RowPlan& plan, int64_t vocab_size, bool loop)
      : path_(std::move(path)), plan_(plan), vocab_size_(vocab_size), loop_(loop) {
    NEREUS_CHECK(kConfig, std::filesystem::is_regular_file(path_),
                 "training.dataset_path = {}: there is no such file; the data set `tokens` is a "
                 ".safetensors with inputs and labels, or a .npy of ids",
                 path_);
    if (path_.ends_with(".npy")) {
      read_ids();
    } else {
      read_pairs();
    }
    NEREUS_CHECK(kConfig, total_ > 0, "{}: has no whole row of {} tokens", path_, plan_.seq_len);
  }

  int64_t next(int64_t rows, std::span<int32_t> inputs, std::span<int32_t> labels) override {
    const int64_t S = plan_.seq_len;
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t g = plan_.global_row(rows_);
      if (g >= total_ && !loop_) return r;
      if (g / total_ > epochs_) {
        epochs_ = g / total_;
        log::warning("Dataset {} is being re-looped", path_);
      }
      const auto from = (g % total_) * S;
      std::copy_n(inputs_.begin() + from, S, inputs.begin() + r * S);
      std::copy_n(labels_.begin() + from, S, labels.begin() + r * S);
      ++rows_;
    }
    return rows;
  }
  SourceStatus status() const override {
    return {.rows = rows_, .documents = 0, .epochs = epochs_};
  }

 private:
  std::vector<int32_t> checked(const std::vector<int64_t>& ids, const char* what) const {
    std::vector<int32_t> out(ids.size());
    for (size_t i = 0; i < ids.size(); ++i) {
      NEREUS_CHECK(kConfig, ids[i] >= 0 && ids[i] < vocab_size_,
                   "{}: {} element {} is {}: not a token of the model, whose vocabulary has {} ids",
                   path_, what, i, ids[i], vocab_size_);
      out[i] = static_cast<int32_t>(ids[i]);
    }
    return out;
  }

  std::vector<int64_t> integers(const SafetensorsEntry& e) const {
    NEREUS_CHECK(kConfig, e.dtype == FileDType::i64 || e.dtype == FileDType::i32,
                 "{}: {} is {}; token ids must be I64 or I32", path_, e.name, e.to_string());
    if (e.dtype == FileDType::i64) return e.values<int64_t>();
    const std::vector<int32_t> narrow = e.values<int32_t>();
    return {narrow.begin(), narrow.end()};
  }

  void read_pairs() {
    const SafetensorsFile file = SafetensorsFile::open(path_);
    const SafetensorsEntry &in = file.require("inputs"), &out = file.require("labels");
    NEREUS_CHECK(kConfig, in.shape == out.shape,
                 "{}: inputs is {} and labels {}; they must have the same shape", path_,
                 in.to_string(), out.to_string());
    const size_t rank = in.shape.size();
    NEREUS_CHECK(kConfig, rank == 2 || rank == 3,
                 "{}: inputs is {}; it must be [steps, batch, sequence] or [rows, sequence]", path_,
                 in.to_string());
    NEREUS_CHECK(kConfig, in.shape[rank - 1] == plan_.seq_len,
                 "{}: inputs is {}: rows of {} tokens, but training.seq_len = {}; set it to {}",
                 path_, in.to_string(), in.shape[rank - 1], plan_.seq_len, in.shape[rank - 1]);
    NEREUS_CHECK(kConfig, rank == 2 || in.shape[1] == plan_.global_batch,
                 "{}: inputs is {}: batches of {} rows, but a step has a global batch of {}; set "
                 "training.global_batch_size to {}",
                 path_, in.to_string(), in.shape[1], plan_.global_batch, in.shape[1]);
    inputs_ = checked(integers(in), "inputs");
    labels_ = checked(integers(out), "labels");
    total_ = static_cast<int64_t>(inputs_.size()) / plan_.seq_len;
  }

  void read_ids() {
    const std::vector<int32_t> ids = checked(read_npy(path_), "the array's");
    const int64_t S = plan_.seq_len;
    total_ = static_cast<int64_t>(ids.size()) / (S + 1);
    for (int64_t r = 0; r < total_; ++r) {
      const auto row = ids.begin() + r * (S + 1);
      inputs_.insert(inputs_.end(), row, row + S);
      labels_.insert(labels_.end(), row + 1, row + S + 1);
    }
  }

  std::string path_;
  RowPlan plan_;
  int64_t vocab_size_;
  bool loop_;
  std::vector<int32_t> inputs_, labels_;  // [total_, S]
  int64_t total_ = 0, rows_ = 0, epochs_ = 0;
};

}  // namespace

std::unique_ptr<RowSource> token_rows(const std::string& path, const RowPlan& plan,
                                      int64_t vocab_size, bool loop) {
  return std::make_unique<TokenRows>(path, plan, vocab_size, loop);
}

}  // namespace nereus::data
