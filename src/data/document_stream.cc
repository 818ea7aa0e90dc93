#include "data/document_stream.h"

#include <nlohmann/json.hpp>
#include <optional>

#include "base/check.h"
#include "base/log.h"
#include "data/utf8.h"

namespace nereus::data {
namespace {

constexpr size_t kBatchBytes = size_t{1} << 17;  // of lines; a batch has at least one
constexpr int64_t kWaiting = 4;                  // batches a worker, read and not yet consumed

// The "text" of a line. nlohmann refuses ill-formed UTF-8, so the line is mended first.
std::optional<std::string> text_of(const std::string& line, int64_t& replaced) {
  const bool valid = is_valid_utf8(line);
  const std::string mended = valid ? std::string() : replace_invalid_utf8(line, &replaced);
  const nlohmann::json object =
      nlohmann::json::parse(valid ? line : mended, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) return std::nullopt;
  const auto text = object.find("text");
  if (text == object.end() || !text->is_string()) return std::nullopt;
  return text->get<std::string>();
}

}  // namespace

struct DocumentStream::Lines {
  struct Line {
    int64_t line, epoch;
    std::string text, where;
  };
  int64_t number = 0;  // of the batch
  std::vector<Line> lines;
};

struct DocumentStream::Batch {
  std::vector<Document> documents;
  int64_t skipped = 0, replaced = 0;
  std::string first_skipped, first_replaced;  // "file:line"
};

DocumentStream::DocumentStream(const TextOptions& options, std::vector<std::string> shards,
                               std::function<bool(int64_t, int64_t)> wanted)
    : options_(options),
      wanted_(std::move(wanted)),
      shards_(std::move(shards)),
      reader_(std::make_unique<LineReader>(shards_)) {
  for (int i = 0; i < std::max(1, options.workers); ++i) threads_.emplace_back([this] { work(); });
}

DocumentStream::~DocumentStream() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  for (std::thread& t : threads_) t.join();
}

bool DocumentStream::read(Lines& out) {
  const std::lock_guard lock(reading_);
  if (ended_) return false;
  out.number = read_batches_++;
  std::string line;
  for (size_t bytes = 0; bytes < kBatchBytes;) {
    if (!reader_->next(line)) {
      NEREUS_CHECK(kConfig, any_line_, "training.dataset_path = {}: the shards have no line",
                   options_.path);
      if (!options_.loop) {
        ended_ = true;
        break;
      }
      ++epoch_;
      line_ = 0;
      reader_ = std::make_unique<LineReader>(shards_);
      continue;
    }
    any_line_ = true;
    if (line.empty()) continue;
    bytes += line.size();
    if (wanted_(line_, epoch_))
      out.lines.push_back(
          {line_, epoch_, line, fmt::format("{}:{}", reader_->file(), reader_->line_number())});
    ++line_;
  }
  return true;
}

DocumentStream::Batch DocumentStream::tokenise(const Lines& lines,
                                               const TextOptions::Encode& encode) const {
  Batch batch;
  for (const Lines::Line& line : lines.lines) {
    const int64_t before = batch.replaced;
    const std::optional<std::string> text = text_of(line.text, batch.replaced);
    if (batch.replaced > before && batch.first_replaced.empty()) batch.first_replaced = line.where;
    if (!text) {
      if (batch.skipped++ == 0) batch.first_skipped = line.where;
      continue;
    }
    Document document{.line = line.line, .epoch = line.epoch, .ids = {}};
    encode(*text, document.ids);
    for (const int32_t id : document.ids)
      NEREUS_CHECK(kConfig, id >= 0 && id < options_.vocab_size,
                   "{}: the tokenizer makes the id {}, but the model's vocabulary has {} ids: the "
                   "tokenizer is not this model's, or model_overrides.vocab_size must be larger",
                   line.where, id, options_.vocab_size);
    batch.documents.push_back(std::move(document));
  }
  return batch;
}

void DocumentStream::work() {
  try {
    const TextOptions::Encode encode = options_.make_encoder();
    const int64_t most = kWaiting * std::max(1, options_.workers);
    for (;;) {
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] {
          return stopping_ || failure_ || static_cast<int64_t>(ready_.size()) < most;
        });
        if (stopping_ || failure_) return;
      }
      Lines lines;
      const bool more = read(lines);
      Batch batch;
      if (more) batch = tokenise(lines, encode);
      const std::lock_guard lock(mutex_);
      if (more) {
        ready_.emplace(lines.number, std::move(batch));
      } else {
        last_batch_ = read_batches_ - 1;
      }
      changed_.notify_all();
      if (!more) return;
    }
  } catch (...) {
    const std::lock_guard lock(mutex_);
    if (!failure_) failure_ = std::current_exception();
    changed_.notify_all();
  }
}

bool DocumentStream::next(std::vector<Document>& documents) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] {
    return failure_ || ready_.contains(next_batch_) ||
           (last_batch_ >= 0 && next_batch_ > last_batch_);
  });
  const auto found = ready_.find(next_batch_);
  if (found == ready_.end()) {
    if (failure_) std::rethrow_exception(failure_);
    return false;
  }
  Batch batch = std::move(found->second);
  ready_.erase(found);
  ++next_batch_;
  changed_.notify_all();
  lock.unlock();
  if (batch.skipped > 0 && skipped_ == 0)
    log::warning("{}: not a JSON object with a \"text\"; such lines are skipped and counted",
                 batch.first_skipped);
  if (batch.replaced > 0 && replaced_ == 0)
    log::warning("{}: not valid UTF-8; ill-formed parts become U+FFFD and are counted",
                 batch.first_replaced);
  skipped_ += batch.skipped;
  replaced_ += batch.replaced;
  for (Document& d : batch.documents) documents.push_back(std::move(d));
  return true;
}

}  // namespace nereus::data
