#include <algorithm>
#include <filesystem>
#include <optional>

#include "base/check.h"
#include "base/files.h"
#include "base/log.h"
#include "data/npy.h"
#include "data/row_source.h"
#include "data/source_state.h"
#include "tensor/safetensors.h"

namespace nereus::data {
namespace {

// Ids of a small file are all checked before the first row.
constexpr int64_t kSmall = int64_t{1} << 24;

// The rows of a file, numbered from 0: seq_len inputs and seq_len labels each.
class TokenFile {
 public:
  virtual ~TokenFile() = default;
  virtual int64_t rows() const = 0;
  virtual void read(int64_t row, std::span<int64_t> inputs, std::span<int64_t> labels) = 0;
  // Can labels be ignored, and how many of a row are not?
  virtual bool may_ignore() const { return false; }
  virtual int64_t counted(int64_t /*row*/) { return 0; }
};

constexpr int64_t kIgnored = -100;  // as PyTorch's cross_entropy

class PairsFile final : public TokenFile {
 public:
  PairsFile(const std::string& path, const RowPlan& plan)
      : file_(SafetensorsFile::open(path)),
        inputs_(file_.require("inputs")),
        labels_(file_.require("labels")) {
    for (const SafetensorsEntry* e : {&inputs_, &labels_})
      NEREUS_CHECK(kConfig, e->dtype == FileDType::i64 || e->dtype == FileDType::i32,
                   "{}: {} is {}; token ids must be I64 or I32", path, e->name, e->to_string());
    const std::vector<int64_t>& shape = inputs_.shape;
    NEREUS_CHECK(kConfig, shape == labels_.shape,
                 "{}: inputs is {} and labels {}; they must have the same shape", path,
                 inputs_.to_string(), labels_.to_string());
    NEREUS_CHECK(kConfig, shape.size() == 2 || shape.size() == 3,
                 "{}: inputs is {}; it must be [steps, batch, sequence] or [rows, sequence]", path,
                 inputs_.to_string());
    NEREUS_CHECK(kConfig, shape.back() == plan.seq_len,
                 "{}: inputs is {}: rows of {} tokens, but training.seq_len = {}; set it to {}",
                 path, inputs_.to_string(), shape.back(), plan.seq_len, shape.back());
    NEREUS_CHECK(kConfig, shape.size() == 2 || plan.any_batch || shape[1] == plan.global_batch,
                 "{}: inputs is {}: batches of {} rows, but a step has a global batch of {}; set "
                 "training.global_batch_size to {}",
                 path, inputs_.to_string(), shape[1], plan.global_batch, shape[1]);
  }
  int64_t rows() const override { return inputs_.count() / inputs_.shape.back(); }
  void read(int64_t row, std::span<int64_t> inputs, std::span<int64_t> labels) override {
    copy(inputs_, row, inputs);
    copy(labels_, row, labels);
    release_pages(static_cast<int64_t>(inputs.size()));
  }
  bool may_ignore() const override { return true; }
  int64_t counted(int64_t row) override {
    row_labels_.resize(static_cast<size_t>(labels_.shape.back()));
    copy(labels_, row, row_labels_);
    release_pages(labels_.shape.back());
    return std::count_if(row_labels_.begin(), row_labels_.end(),
                         [](int64_t label) { return label != kIgnored; });
  }

 private:
  void release_pages(int64_t ids) {
    // Pages that were read count as memory of the process until they are released.
    constexpr int64_t kRead = int64_t{1} << 23;  // ids
    read_ += 2 * ids;
    if (read_ < kRead) return;
    read_ = 0;
    file_.release_pages(inputs_);
    file_.release_pages(labels_);
  }
  void copy(const SafetensorsEntry& from, int64_t row, std::span<int64_t> to) {
    const auto n = static_cast<int64_t>(to.size());
    if (from.dtype == FileDType::i64) return from.read(row * n, n, to.data());
    narrow_.resize(to.size());
    from.read(row * n, n, narrow_.data());
    std::copy(narrow_.begin(), narrow_.end(), to.begin());
  }

  SafetensorsFile file_;
  const SafetensorsEntry &inputs_, &labels_;
  std::vector<int32_t> narrow_;
  std::vector<int64_t> row_labels_;
  int64_t read_ = 0;
};

class IdsFile final : public TokenFile {
 public:
  IdsFile(const std::string& path, const RowPlan& plan)
      : file_(path), row_(static_cast<size_t>(plan.seq_len) + 1) {}
  int64_t rows() const override { return file_.count() / static_cast<int64_t>(row_.size()); }
  void read(int64_t row, std::span<int64_t> inputs, std::span<int64_t> labels) override {
    file_.read(row * static_cast<int64_t>(row_.size()), row_);
    std::copy(row_.begin(), row_.end() - 1, inputs.begin());
    std::copy(row_.begin() + 1, row_.end(), labels.begin());
  }

 private:
  NpyFile file_;
  std::vector<int64_t> row_;
};

std::unique_ptr<TokenFile> open(const std::string& path, const RowPlan& plan) {
  std::error_code unknown;
  NEREUS_CHECK(kConfig, std::filesystem::is_regular_file(path, unknown),
               "{} = {}: {}; the data set `tokens` is a .safetensors with inputs and labels, or a "
               ".npy of ids",
               plan.path_key, path, what_is_at(path));
  if (path.ends_with(".npy")) return std::make_unique<IdsFile>(path, plan);
  return std::make_unique<PairsFile>(path, plan);
}

class TokenRows final : public RowSource {
 public:
  TokenRows(const std::string& path, const RowPlan& plan, int64_t vocab_size, bool loop,
            const SavedStates& saved)
      : path_(path),
        plan_(plan),
        vocab_size_(vocab_size),
        loop_(loop),
        file_(open(path, plan)),
        total_(file_->rows()),
        first_row_(parse_row_state(saved, "tokens")),
        wide_inputs_(static_cast<size_t>(plan.seq_len)),
        wide_labels_(wide_inputs_.size()) {
    NEREUS_CHECK(kConfig, total_ > 0, "{}: has no whole row of {} tokens", path_, plan_.seq_len);
    epochs_ = first_row_ / total_;
    std::vector<int32_t> inputs(wide_inputs_.size()), labels(wide_inputs_.size());
    ignores_ = file_->may_ignore();
    if (total_ * plan_.seq_len > kSmall) return;
    ignores_ = false;
    for (int64_t row = 0; row < total_; ++row) {
      read(row, inputs.data(), labels.data());
      ignores_ = ignores_ || std::find(labels.begin(), labels.end(), kIgnored) != labels.end();
    }
  }

  int64_t next(int64_t rows, std::span<int32_t> inputs, std::span<int32_t> labels) override {
    const int64_t S = plan_.seq_len;
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t row = first_row_ + plan_.global_row(rows_);
      if (row >= total_ && !loop_) return r;
      if (row / total_ > epochs_) {
        epochs_ = row / total_;
        log::warning("Dataset {} is being re-looped", path_);
      }
      read(row % total_, inputs.data() + r * S, labels.data() + r * S);
      ++rows_;
    }
    return rows;
  }
  SourceStatus status() const override {
    return {.rows = rows_, .documents = 0, .text_bytes = 0, .epochs = epochs_};
  }
  std::optional<int64_t> counted() override {
    if (!ignores_ || rows_ == 0) return std::nullopt;
    const int64_t B = plan_.global_batch, first = (rows_ - 1) / plan_.local_rows() * B;
    int64_t sum = 0;
    for (int64_t i = 0; i < B; ++i) sum += file_->counted((first_row_ + first + i) % total_);
    return sum;
  }
  std::string save_state() override {
    return row_state("tokens", next_step(plan_, first_row_, rows_));
  }

 private:
  void read(int64_t row, int32_t* inputs, int32_t* labels) {
    file_->read(row, wide_inputs_, wide_labels_);
    narrow("inputs", row, wide_inputs_, inputs, false);
    narrow("labels", row, wide_labels_, labels, file_->may_ignore());
  }

  void narrow(const char* what, int64_t row, const std::vector<int64_t>& ids, int32_t* out,
              bool may_ignore) const {
    for (size_t i = 0; i < ids.size(); ++i) {
      NEREUS_CHECK(kConfig,
                   (ids[i] >= 0 && ids[i] < vocab_size_) || (may_ignore && ids[i] == kIgnored),
                   "{}: {} row {}, position {} is {}: not a token of the model, whose vocabulary "
                   "has {} ids{}",
                   path_, what, row, i, ids[i], vocab_size_,
                   may_ignore ? "; a label that is to be ignored is -100" : "");
      out[i] = static_cast<int32_t>(ids[i]);
    }
  }

  std::string path_;
  RowPlan plan_;
  int64_t vocab_size_;
  bool loop_;
  std::unique_ptr<TokenFile> file_;
  int64_t total_;
  int64_t first_row_;  // of the run, when it goes on
  std::vector<int64_t> wide_inputs_, wide_labels_;
  int64_t rows_ = 0, epochs_ = 0;
  bool ignores_ = false;  // some labels, perhaps
};

}  // namespace

std::unique_ptr<RowSource> token_rows(const std::string& path, const RowPlan& plan,
                                      int64_t vocab_size, bool loop, const SavedStates& saved) {
  return std::make_unique<TokenRows>(path, plan, vocab_size, loop, saved);
}

}  // namespace nereus::data
