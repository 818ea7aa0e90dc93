#include <algorithm>
#include <deque>
#include <filesystem>
#include <set>

#include "base/check.h"
#include "base/log.h"
#include "base/text.h"
#include "data/document_stream.h"
#include "data/packer.h"
#include "data/row_source.h"
#include "data/shards.h"
#include "data/source_state.h"

namespace nereus::data {
namespace {

class TextRows final : public RowSource {
 public:
  TextRows(const TextOptions& options, const RowPlan& plan, const SavedStates& saved)
      : options_(options), plan_(plan), global_(options.order == DataOrder::global) {
    // A source that does not loop has one stream. Several would end at different times, and the
    // rest of their documents would be lost.
    streams_.resize(static_cast<size_t>(global_ && options.loop ? options.streams : 1));
    const std::vector<SourceState> states = parse_states(saved, word(options.order));
    if (!states.empty()) first_row_ = states.front().row;
    mark_mine();
    shards_ = my_shards();
    const Dealer dealer = global_         ? Dealer::global(stream_count())
                          : whole_shards_ ? Dealer::split(1, 0)
                                          : Dealer::split(plan.dp_size, plan.dp_rank);
    start_ = states.empty() ? dealer.start() : resume(states);
    frontier_ = start_.document;
    epochs_ = start_.epoch;
    documents_ = std::make_unique<DocumentStream>(
        options, shards_, DocumentStream::BrokenShards{broken_, whole_shards_ && plan.dp_size > 1},
        dealer, start_, [this](int64_t stream, int64_t document) {
          const Stream& s = streams_[static_cast<size_t>(stream)];
          return s.mine && document >= s.from.document;
        });
  }

  int64_t next(int64_t rows, std::span<int32_t> inputs, std::span<int32_t> labels) override {
    const int64_t S = plan_.seq_len;
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t row = first_row_ + plan_.global_row(rows_);
      Stream& stream = streams_[static_cast<size_t>(row % stream_count())];
      if (global_ && !drop_until(stream, row / stream_count())) return r;
      while (!stream.packer.take(S, inputs.data() + r * S, labels.data() + r * S))
        if (!read_more()) return r;
      ++stream.taken;
      ++rows_;
    }
    return rows;
  }

  SourceStatus status() const override {
    SourceStatus out{
        .rows = rows_, .documents = read_, .text_bytes = text_bytes_, .epochs = epochs_};
    out.parts.resize(static_cast<size_t>(global_ ? stream_count() : plan_.dp_size));
    out.parts[static_cast<size_t>(whole_shards_ ? plan_.dp_rank : 0)].broken_shards =
        documents_->broken_shards();
    const bool whole = epochs_ > 0 && start_.document == 0;
    for (int64_t i = 0; i < stream_count(); ++i) {
      const Stream& stream = streams_[static_cast<size_t>(i)];
      if (stream.mine && whole) part(out, i).tokens_a_pass = stream.tokens_first_pass;
    }
    for (const auto& [i, mended] : documents_->mended()) {
      part(out, i).not_json = mended.not_json;
      part(out, i).without_text = mended.without_text;
      part(out, i).replaced = mended.replaced;
    }
    return out;
  }

  std::string save_state() override {
    SourceState s;
    s.source = word(options_.order);
    s.row = next_step(plan_, first_row_, rows_);
    s.dp_rank = plan_.dp_rank;
    s.dp_size = plan_.dp_size;
    s.streams = stream_count();
    s.shards = static_cast<int64_t>(shards_.size());
    for (int64_t i = 0; i < stream_count(); ++i) {
      Stream& stream = streams_[static_cast<size_t>(i)];
      if (!stream.mine) continue;
      if (global_) drop_until(stream, rows_before(s.row, i));
      s.positions[i] = position(stream);
    }
    s.reader = reader_before(earliest());
    s.shard = shard_name(s.reader);
    return to_string(s);
  }

 private:
  struct Stream {
    bool mine = false;   // do rows of this rank come from it?
    TokenPosition from;  // where the run began or goes on
    int64_t taken = 0;   // rows, other ranks' included
    int64_t tokens_first_pass = 0;
    Packer packer;
  };

  // The streams, or each rank's documents.
  SourceStatus::Part& part(SourceStatus& s, int64_t stream) const {
    return s.parts[static_cast<size_t>(global_ ? stream : plan_.dp_rank)];
  }
  int64_t stream_count() const { return static_cast<int64_t>(streams_.size()); }
  // How many of the run's first `rows` rows are of `stream`.
  int64_t rows_before(int64_t rows, int64_t stream) const {
    return (rows + stream_count() - 1 - stream) / stream_count();
  }

  void mark_mine() {
    // After as many steps as there are streams the rows' streams repeat.
    int64_t missing = stream_count();
    for (int64_t r = 0; r < plan_.local_rows() * stream_count() && missing > 0; ++r) {
      Stream& stream =
          streams_[static_cast<size_t>((first_row_ + plan_.global_row(r)) % stream_count())];
      missing -= stream.mine ? 0 : 1;
      stream.mine = true;
    }
  }

  // TorchTitan's split_dataset_by_node on a stream: whole shards when they divide evenly among the
  // ranks, else every dp_size-th document of all.
  std::vector<std::string> my_shards() {
    const std::vector<std::string> all = find_shards(options_.path, options_.split, plan_.path_key);
    look_at(all);
    const auto size = static_cast<size_t>(plan_.dp_size), rank = static_cast<size_t>(plan_.dp_rank);
    whole_shards_ = !global_ && all.size() % size == 0;
    if (!whole_shards_) return all;
    std::vector<std::string> mine;
    for (size_t i = rank; i < all.size(); i += size) mine.push_back(all[i]);
    return mine;
  }

  // What can be known before anything is read. Each shard is looked at by eight ranks or more, and
  // by the first.
  void look_at(const std::vector<std::string>& all) {
    const auto stride =
        static_cast<size_t>(plan_.dp_rank == 0 ? 1 : std::max(1, plan_.dp_size / 8));
    const ShardLook look = look_at_shards(all, static_cast<size_t>(plan_.dp_rank) % stride, stride);
    const auto name = [](const std::string& path) {
      return std::filesystem::path(path).filename().string();
    };
    log::info("Data set {}: {} shard{}, {}{}, {}", options_.path, all.size(),
              all.size() == 1 ? "" : "s", name(all.front()),
              all.size() == 1 ? "" : " to " + name(all.back()), size_text(look.bytes));
    if (look.broken.empty()) return;
    broken_.insert(look.broken.begin(), look.broken.end());
    const std::string message =
        fmt::format("{} = {}: {} of {} shards cannot be read as lines of JSON{}", plan_.path_key,
                    options_.path, look.broken.size(), all.size(), look.message);
    const bool others = look.broken.size() < all.size();
    NEREUS_CHECK(kConfig, others && options_.on_broken_shard == BrokenShard::skip, "{}{}", message,
                 others ? "\n  data.on_broken_shard = \"skip\" trains on the others." : "");
    log::warning("{}\n  They are passed over (data.on_broken_shard = \"skip\").", message);
  }

  std::string shard_name(const ReadPosition& p) const {
    return std::filesystem::path(shards_[static_cast<size_t>(p.shard)]).filename().string();
  }

  // The position to read from so that all streams of this rank continue where they were.
  ReadPosition resume(const std::vector<SourceState>& states) {
    const SourceState* earliest = nullptr;
    for (int64_t i = 0; i < stream_count(); ++i) {
      Stream& stream = streams_[static_cast<size_t>(i)];
      if (!stream.mine) continue;
      const SourceState& state = state_of(states, i);
      stream.from = state.positions.at(i);
      stream.taken = rows_before(first_row_, i);
      if (earliest == nullptr || state.reader.document < earliest->reader.document)
        earliest = &state;
    }
    const ReadPosition& reader = earliest->reader;
    const auto shards = static_cast<int64_t>(shards_.size());
    NEREUS_CHECK(kConfig, earliest->shards == shards && reader.shard >= 0 && reader.shard < shards,
                 "{} = {}: has {} shards for this rank, but {} when the run "
                 "was saved; give it the data set that it had",
                 plan_.path_key, options_.path, shards, earliest->shards);
    NEREUS_CHECK(kConfig, earliest->shard == shard_name(reader),
                 "{} = {}: shard {} is {}, but was {} when the run was saved; "
                 "give it the data set that it had",
                 plan_.path_key, options_.path, reader.shard, shard_name(reader), earliest->shard);
    return reader;
  }

  const SourceState& state_of(const std::vector<SourceState>& states, int64_t stream) const {
    for (const SourceState& s : states) {
      NEREUS_CHECK(kConfig, global_ || s.dp_size == plan_.dp_size,
                   "dp_degree is inconsistent before and after checkpoint, dataloader resharding "
                   "is not supported yet.\n  The run was saved with {} data-parallel ranks and has "
                   "{} now: keep them, or train with data.order = \"global\"",
                   s.dp_size, plan_.dp_size);
      NEREUS_CHECK(kConfig, s.streams == stream_count(),
                   "the run was saved with {} streams of documents and has {} now", s.streams,
                   stream_count());
      if (s.positions.contains(stream) && (global_ || s.dp_rank == plan_.dp_rank)) return s;
    }
    NEREUS_FAIL(kConfig,
                "the saved positions in the data set are those of {} ranks and lack what rank {} "
                "of {} needs (stream {}); give those of all ranks",
                states.size(), plan_.dp_rank, plan_.dp_size, stream);
  }

  // Passes over other ranks' rows of a stream. False: the source has ended before.
  bool drop_until(Stream& stream, int64_t rows) {
    while (stream.taken < rows) {
      while (!stream.packer.take(plan_.seq_len, nullptr, nullptr))
        if (!read_more()) return false;
      ++stream.taken;
    }
    return true;
  }

  TokenPosition position(const Stream& stream) const {
    return std::max(stream.packer.position().value_or(TokenPosition{frontier_, 0}), stream.from);
  }

  int64_t earliest() const {
    int64_t out = frontier_;
    for (const Stream& s : streams_)
      if (s.mine) out = std::min(out, position(s).document);
    return out;
  }

  // The last known beginning of a batch that is not after the document.
  ReadPosition reader_before(int64_t document) {
    while (begins_.size() > 1 && begins_[1].document <= document) begins_.pop_front();
    return begins_.empty() ? start_ : begins_.front();
  }

  bool read_more() {
    DocumentBatch batch;
    if (!documents_->next(batch)) return false;
    if (batch.begin.epoch > epochs_) next_pass(batch.begin.epoch);
    frontier_ = batch.end_document;
    for (Document& d : batch.documents) {
      const auto count = static_cast<int64_t>(d.ids.size());
      tokens_ += count;
      text_bytes_ += d.text_bytes;
      Stream& stream = streams_[static_cast<size_t>(d.stream)];
      if (batch.begin.epoch == 0) stream.tokens_first_pass += count;
      const int64_t skip = d.document == stream.from.document ? stream.from.token : 0;
      stream.packer.append(d.document, std::move(d.ids), skip);
      ++read_;
    }
    begins_.push_back(std::move(batch.begin));
    reader_before(earliest());
    return true;
  }

  void next_pass(int64_t epoch) {
    epochs_ = epoch;
    // A tiny data set starts over all the time; after a few messages no more are logged.
    const bool say = epoch < 4 || (epoch & (epoch - 1)) == 0;
    if (say) log::warning("Dataset {} is being re-looped", options_.dataset);
    constexpr int64_t kEnoughLines = 1000;
    int64_t not_json = 0, without_text = 0;
    for (const auto& [i, mended] : documents_->mended()) {
      not_json += mended.not_json;
      without_text += mended.without_text;
    }
    const int64_t without = not_json + without_text, lines = read_ + without;
    const bool whole_pass = epoch - start_.epoch > (start_.index > 0 ? 1 : 0);
    NEREUS_CHECK(kConfig, documents_->any_document() || !whole_pass,
                 "{} = {}: no line of it is a document: {} are not JSON, {} have no \"text\"",
                 plan_.path_key, options_.path, not_json, without_text);
    NEREUS_CHECK(kConfig,
                 tokens_ > 0 || (lines < kEnoughLines &&
                                 epoch - start_.epoch < kPassesPerStream * stream_count()),
                 "{} = {}: rank {} of {} found no document with a token in {} "
                 "lines ({} of them skipped) and {} passes; the set is too small for "
                 "so many ranks, or not what it should be",
                 plan_.path_key, options_.path, plan_.dp_rank, plan_.dp_size, lines, without,
                 epoch - start_.epoch);
  }

  static constexpr int64_t kPassesPerStream = 8;

  TextOptions options_;
  RowPlan plan_;
  bool global_;
  bool whole_shards_ = false;
  std::vector<std::string> shards_;
  std::set<std::string> broken_;  // of all shards: at the look before the start
  std::vector<Stream> streams_;
  ReadPosition start_;
  int64_t first_row_ = 0;            // of the run, when it goes on
  int64_t frontier_ = 0;             // the first document not yet read
  std::deque<ReadPosition> begins_;  // of batches of which something waits
  int64_t rows_ = 0, read_ = 0, text_bytes_ = 0, tokens_ = 0, epochs_ = 0;
  std::unique_ptr<DocumentStream> documents_;  // last: its threads use what is above
};

}  // namespace

std::unique_ptr<RowSource> text_rows(const TextOptions& options, const RowPlan& plan,
                                     const SavedStates& saved) {
  log::info("Preparing {} dataset from {}", options.dataset, options.path);
  return std::make_unique<TextRows>(options, plan, saved);
}

}  // namespace nereus::data
