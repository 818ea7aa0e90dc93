#include <algorithm>
#include <set>

#include "base/check.h"
#include "base/log.h"
#include "data/document_stream.h"
#include "data/row_source.h"

namespace nereus::data {
namespace {

// Ids waiting to become rows. A row takes seq_len + 1 of them: the last input's label is used once
// and not again, as TorchTitan does.
class Packer {
 public:
  void append(const std::vector<int32_t>& ids) {
    if (begin_ > kCompact) {
      ids_.erase(ids_.begin(), ids_.begin() + static_cast<std::ptrdiff_t>(begin_));
      begin_ = 0;
    }
    ids_.insert(ids_.end(), ids.begin(), ids.end());
  }
  bool take(int64_t seq_len, int32_t* inputs, int32_t* labels) {
    const auto n = static_cast<size_t>(seq_len);
    if (ids_.size() - begin_ < n + 1) return false;
    const auto row = ids_.begin() + static_cast<std::ptrdiff_t>(begin_);
    std::copy_n(row, n, inputs);
    std::copy_n(row + 1, n, labels);
    begin_ += n + 1;
    return true;
  }

 private:
  static constexpr size_t kCompact = size_t{1} << 16;
  std::vector<int32_t> ids_;
  size_t begin_ = 0;
};

class TextRows final : public RowSource {
 public:
  TextRows(const TextOptions& options, const RowPlan& plan)
      : dataset_(options.dataset),
        plan_(plan),
        global_(options.order == "global"),
        streams_(!global_       ? 1
                 : options.loop ? options.streams
                                : 1),
        packers_(static_cast<size_t>(streams_)),
        mine_(my_streams()),
        shards_(my_shards(options)),
        documents_(options, shards_, wanted()) {}

  int64_t next(int64_t rows, std::span<int32_t> inputs, std::span<int32_t> labels) override {
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t stream = global_ ? plan_.global_row(rows_) % streams_ : 0;
      Packer& packer = packers_[static_cast<size_t>(stream)];
      while (!packer.take(plan_.seq_len, inputs.data() + r * plan_.seq_len,
                          labels.data() + r * plan_.seq_len))
        if (!read_more()) return r;
      ++rows_;
    }
    return rows;
  }

  SourceStatus status() const override {
    return {.rows = rows_,
            .documents = read_,
            .epochs = epochs_,
            .tokens_a_pass = epochs_ > 0 ? tokens_a_pass_ : 0,
            .skipped_lines = documents_.skipped_lines(),
            .replaced = documents_.replaced()};
  }

 private:
  // A document's stream. The epoch turns the assignment, or a set whose number of documents is a
  // multiple of the streams would fill them unevenly for ever.
  int64_t stream_of(int64_t line, int64_t epoch) const { return (line + epoch) % streams_; }

  // The streams that this rank's rows come from.
  std::set<int64_t> my_streams() const {
    std::set<int64_t> out;
    // Rows repeat their pattern of streams after `streams_` steps at most.
    for (int64_t r = 0;
         r < plan_.local_rows() * streams_ && static_cast<int64_t>(out.size()) < streams_; ++r)
      out.insert(plan_.global_row(r) % streams_);
    return out;
  }

  // TorchTitan's split_dataset_by_node on a stream: whole shards when they divide evenly among the
  // ranks, else every dp_size-th document of all.
  std::vector<std::string> my_shards(const TextOptions& options) {
    const std::vector<std::string> all =
        find_shards(options.path, options.dataset == "c4_validation" ? "validation" : "train");
    const auto size = static_cast<size_t>(plan_.dp_size), rank = static_cast<size_t>(plan_.dp_rank);
    whole_shards_ = !global_ && all.size() % size == 0;
    if (!whole_shards_) return all;
    std::vector<std::string> mine;
    for (size_t i = rank; i < all.size(); i += size) mine.push_back(all[i]);
    return mine;
  }

  std::function<bool(int64_t, int64_t)> wanted() const {
    if (global_)
      return [this](int64_t line, int64_t epoch) { return mine_.contains(stream_of(line, epoch)); };
    if (whole_shards_) return [](int64_t, int64_t) { return true; };
    return [this](int64_t line, int64_t) { return line % plan_.dp_size == plan_.dp_rank; };
  }

  bool read_more() {
    batch_.clear();
    if (!documents_.next(batch_)) return false;
    for (const Document& d : batch_) {
      packers_[static_cast<size_t>(global_ ? stream_of(d.line, d.epoch) : 0)].append(d.ids);
      if (d.epoch > epochs_) {
        epochs_ = d.epoch;
        log::warning("Dataset {} is being re-looped", dataset_);
      }
      if (d.epoch == 0) tokens_a_pass_ += static_cast<int64_t>(d.ids.size());
      ++read_;
    }
    return true;
  }

  std::string dataset_;
  RowPlan plan_;
  bool global_;
  int64_t streams_;
  std::vector<Packer> packers_;
  std::set<int64_t> mine_;
  std::vector<Document> batch_;
  int64_t rows_ = 0, read_ = 0, epochs_ = 0, tokens_a_pass_ = 0;
  bool whole_shards_ = false;  // set by my_shards()
  std::vector<std::string> shards_;
  DocumentStream documents_;  // last: its threads use what is above
};

}  // namespace

std::unique_ptr<RowSource> text_rows(const TextOptions& options, const RowPlan& plan) {
  log::info("Preparing {} dataset from {}", options.dataset, options.path);
  return std::make_unique<TextRows>(options, plan);
}

}  // namespace nereus::data
