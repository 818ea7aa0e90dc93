#include "data/document_stream.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/check.h"
#include "base/log.h"
#include "data/utf8.h"

namespace nereus::data {
namespace {

constexpr size_t kBatchBytes = size_t{1} << 17;  // of lines; a batch has at least one
constexpr size_t kWaiting = 4;                   // batches a worker, read and not yet consumed

size_t threads_wanted(const TextOptions& o) { return static_cast<size_t>(std::max(1, o.workers)); }

// The "text" of a line. nlohmann rejects ill-formed UTF-8, so it is replaced first.
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
    int64_t document, stream;
    std::string text, where;
  };
  int64_t number = 0;  // of the batch
  ReadPosition begin;
  int64_t end_document = 0;
  std::vector<Line> lines;
};

struct DocumentStream::Batch {
  DocumentBatch out;
  std::map<int64_t, Mended> mended;
  std::string first_skipped, first_replaced;  // "file:line"
  std::exception_ptr failure;
};

DocumentStream::DocumentStream(const TextOptions& options, std::vector<std::string> shards,
                               const Dealer& dealer, ReadPosition start, Wanted wanted)
    : options_(options),
      shards_(std::move(shards)),
      dealer_(dealer),
      wanted_(std::move(wanted)),
      reader_(std::make_unique<LineReader>(shards_, static_cast<size_t>(start.shard), start.line)),
      at_(std::move(start)) {
  for (size_t i = 0; i < threads_wanted(options); ++i) threads_.emplace_back([this] { work(); });
}

DocumentStream::~DocumentStream() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  for (std::thread& t : threads_) t.join();
}

// False when there is no further batch. When it throws, out.number is the batch that failed, and no
// batch follows it.
bool DocumentStream::read(Lines& out) {
  const std::lock_guard lock(reading_);
  if (ended_) return false;
  ended_ = true;  // unless all goes well
  out.number = read_batches_++;
  out.begin = at_;
  std::string line;
  bool more = true;
  for (size_t bytes = 0; bytes < kBatchBytes && more;) {
    more = reader_->next(line);
    if (!more) break;
    at_.shard = static_cast<int64_t>(reader_->file_index());
    at_.line = reader_->line_number();
    if (line.empty()) continue;
    bytes += line.size();
    const int64_t stream = dealer_.deal(at_, line.size());
    if (stream >= 0 && wanted_(stream, at_.document))
      out.lines.push_back({at_.document, stream, std::move(line),
                           fmt::format("{}:{}", reader_->file(), reader_->line_number())});
    ++at_.document;
    ++at_.index;
  }
  out.end_document = at_.document;
  if (!more) {
    NEREUS_CHECK(kConfig, at_.document > 0, "{}: the shards have no line", options_.path);
    if (!options_.loop) return true;
    ++at_.epoch;
    at_.shard = at_.line = at_.index = 0;
    reader_ = std::make_unique<LineReader>(shards_);
  }
  ended_ = false;
  return true;
}

void DocumentStream::tokenise(const Lines& lines, const TextOptions::Encode& encode,
                              Batch& batch) const {
  batch.out.begin = lines.begin;
  batch.out.end_document = lines.end_document;
  for (const Lines::Line& line : lines.lines) {
    int64_t replaced = 0;
    const std::optional<std::string> text = text_of(line.text, replaced);
    if (replaced > 0) {
      if (batch.first_replaced.empty()) batch.first_replaced = line.where;
      batch.mended[line.stream].replaced += replaced;
    }
    if (!text) {
      if (batch.first_skipped.empty()) batch.first_skipped = line.where;
      ++batch.mended[line.stream].skipped_lines;
      continue;
    }
    Document document{.document = line.document,
                      .stream = line.stream,
                      .text_bytes = static_cast<int64_t>(text->size()),
                      .ids = {}};
    encode(*text, document.ids);
    for (const int32_t id : document.ids)
      NEREUS_CHECK(kConfig, id >= 0 && id < options_.vocab_size,
                   "{}: the tokenizer makes the id {}, but the model's vocabulary has {} ids: the "
                   "tokenizer is not this model's, or model_overrides.vocab_size must be larger",
                   line.where, id, options_.vocab_size);
    batch.out.documents.push_back(std::move(document));
  }
}

void DocumentStream::work() {
  try {
    const TextOptions::Encode encode = options_.make_encoder();
    const size_t most = kWaiting * threads_wanted(options_);
    for (;;) {
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return stopping_ || failure_ || ready_.size() < most; });
        if (stopping_ || failure_) return;
      }
      Lines lines;
      Batch batch;
      bool more = true;
      try {
        more = read(lines);
        if (more) tokenise(lines, encode, batch);
      } catch (...) {
        batch.failure = std::current_exception();
      }
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
    failure_ = std::current_exception();
    changed_.notify_all();
  }
}

bool DocumentStream::next(DocumentBatch& out) {
  Batch batch;
  {
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
    if (found->second.failure) std::rethrow_exception(found->second.failure);
    batch = std::move(found->second);
    ready_.erase(found);
    ++next_batch_;
  }
  changed_.notify_all();
  if (!batch.first_skipped.empty() && !said_skipped_)
    log::warning("{}: not a JSON object with a \"text\"; such lines are skipped and counted",
                 batch.first_skipped);
  if (!batch.first_replaced.empty() && !said_replaced_)
    log::warning("{}: not valid UTF-8; ill-formed parts become U+FFFD and are counted",
                 batch.first_replaced);
  said_skipped_ = said_skipped_ || !batch.first_skipped.empty();
  said_replaced_ = said_replaced_ || !batch.first_replaced.empty();
  for (const auto& [stream, mended] : batch.mended) {
    mended_[stream].skipped_lines += mended.skipped_lines;
    mended_[stream].replaced += mended.replaced;
  }
  out = std::move(batch.out);
  return true;
}

}  // namespace nereus::data
