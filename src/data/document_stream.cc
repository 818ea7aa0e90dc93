#include "data/document_stream.h"

#include <algorithm>
#include <optional>

#include "base/check.h"
#include "base/log.h"
#include "base/log_rank.h"
#include "data/document_text.h"
#include "data/shards.h"

namespace nereus::data {
namespace {

constexpr size_t kBatchBytes = size_t{1} << 17;  // of lines; a batch has at least one
constexpr size_t kWaiting = 4;                   // batches a worker, read and not yet consumed

size_t threads_wanted(const TextOptions& o) { return static_cast<size_t>(std::max(1, o.workers)); }

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
  std::vector<std::string>
      others;  // not wanted: read only to know whether the set has any document
};

struct DocumentStream::Batch {
  DocumentBatch out;
  std::map<int64_t, Mended> mended;
  std::string first_replaced;  // "file:line"
  struct Skipped {
    std::string where, why;
  } first_not_json, first_without_text;
  bool any_document = false;
  std::exception_ptr failure;
};

DocumentStream::DocumentStream(const TextOptions& options, std::vector<std::string> shards,
                               BrokenShards broken, const Dealer& dealer, ReadPosition start,
                               Wanted wanted)
    : options_(options),
      shards_(std::move(shards)),
      broken_shards_(std::move(broken)),
      dealer_(dealer),
      wanted_(std::move(wanted)),
      reader_(open(static_cast<size_t>(start.shard), start.line)),
      at_(std::move(start)) {
  for (size_t i = 0; i < threads_wanted(options); ++i)
    threads_.emplace_back([this, rank = log::this_rank()] {
      log::speak_as(rank);
      work();
    });
}

DocumentStream::~DocumentStream() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  for (std::thread& t : threads_) t.join();
}

std::unique_ptr<LineReader> DocumentStream::open(size_t shard, int64_t line) const {
  return std::make_unique<LineReader>(shards_, shard, line, [](const std::string& file) {
    if (const std::optional<ShardFault> fault = fault_of_shard(file))
      NEREUS_FAIL(kIo, "{}: {}\n  {}", file, fault->what, fault->remedy);
  });
}

// As the reader's, but for shards that break and are to be passed over.
bool DocumentStream::next_line(std::string& line) {
  for (;;) {
    try {
      return reader_->next(line);
    } catch (const Error& e) {
      if (e.fault() != Fault::kIo) throw;
      if (options_.on_broken_shard == BrokenShard::stop)
        NEREUS_FAIL(kIo,
                    "{}\n  It was read up to line {}. data.on_broken_shard = \"skip\" passes over "
                    "what is left of such a shard.",
                    e.what(), reader_->line_number());
      if (at_.epoch == 0) {
        ++passed_over_;
        if (!broken_shards_.known.contains(reader_->file()))
          log::write(
              broken_shards_.of_this_rank ? log::Level::error : log::Level::warning,
              fmt::format("{}\n  Passed over from line {} on (data.on_broken_shard = \"skip\").",
                          e.what(), reader_->line_number() + 1));
      }
      if (!reader_->next_file()) return false;
    }
  }
}

// False when there is no further batch. When it throws, out.number is the batch that failed, and no
// batch follows it.
bool DocumentStream::read(Lines& out) {
  const std::lock_guard lock(reading_);
  if (ended_) return false;
  ended_ = true;  // unless all goes well
  out.number = read_batches_++;
  if (broken_) std::rethrow_exception(broken_);
  out.begin = at_;
  std::string line;
  bool more = true;
  for (size_t bytes = 0; bytes < kBatchBytes && more;) {
    try {
      more = next_line(line);
    } catch (const Error&) {
      if (bytes == 0) throw;
      broken_ = std::current_exception();  // the next batch's: what was read before is not lost
      break;
    }
    if (!more) break;
    at_.shard = static_cast<int64_t>(reader_->file_index());
    at_.line = reader_->line_number();
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    bytes += line.size();
    const int64_t stream = dealer_.deal(at_, line.size());
    if (stream >= 0 && wanted_(stream, at_.document))
      out.lines.push_back({at_.document, stream, std::move(line),
                           fmt::format("{}:{}", reader_->file(), reader_->line_number())});
    else if (!found_)
      out.others.push_back(std::move(line));
    ++at_.document;
    ++at_.index;
  }
  out.end_document = at_.document;
  if (!more) {
    NEREUS_CHECK(kConfig, at_.index > 0, "{}: the shards have no line", options_.path);
    if (!options_.loop) return true;
    ++at_.epoch;
    at_.shard = at_.line = at_.index = 0;
    reader_ = open();
  }
  ended_ = false;
  return true;
}

void DocumentStream::tokenise(const Lines& lines, const TextOptions::Encode& encode, Batch& batch) {
  batch.out.begin = lines.begin;
  batch.out.end_document = lines.end_document;
  for (const std::string& line : lines.others) {
    if (batch.any_document) break;
    batch.any_document = read_document(line).text.has_value();
  }
  for (const Lines::Line& line : lines.lines) {
    DocumentText read = read_document(line.text);
    if (read.replaced > 0) {
      if (batch.first_replaced.empty()) batch.first_replaced = line.where;
      batch.mended[line.stream].replaced += read.replaced;
    }
    if (!read.text) {
      const bool json = read.skipped == DocumentText::Skipped::no_text;
      Mended& mended = batch.mended[line.stream];
      ++(json ? mended.without_text : mended.not_json);
      Batch::Skipped& first = json ? batch.first_without_text : batch.first_not_json;
      if (first.where.empty()) first = {line.where, read.why};
      continue;
    }
    const std::string& text = *read.text;
    batch.any_document = true;
    Document document{.document = line.document,
                      .stream = line.stream,
                      .text_bytes = static_cast<int64_t>(text.size()),
                      .ids = {}};
    encode(text, document.ids);
    for (const int32_t id : document.ids)
      NEREUS_CHECK(kConfig, id >= 0 && id < options_.vocab_size,
                   "{}: the tokenizer makes the id {}, but the model's vocabulary has {} ids: the "
                   "tokenizer is not this model's, or model_overrides.vocab_size must be larger",
                   line.where, id, options_.vocab_size);
    batch.out.documents.push_back(std::move(document));
  }
  if (batch.any_document) found_ = true;
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
  const auto once = [](bool& said, const std::string& where) {
    const bool say = !said && !where.empty();
    said = said || say;
    return say;
  };
  if (once(said_not_json_, batch.first_not_json.where))
    log::warning("{}: not JSON ({}); such lines are skipped and counted",
                 batch.first_not_json.where, batch.first_not_json.why);
  if (once(said_without_text_, batch.first_without_text.where))
    log::warning("{}: no \"text\" that is a string ({}); such lines are skipped and counted",
                 batch.first_without_text.where, batch.first_without_text.why);
  if (once(said_replaced_, batch.first_replaced))
    log::warning("{}: not valid UTF-8; ill-formed parts become U+FFFD and are counted",
                 batch.first_replaced);
  for (const auto& [stream, mended] : batch.mended) {
    mended_[stream].not_json += mended.not_json;
    mended_[stream].without_text += mended.without_text;
    mended_[stream].replaced += mended.replaced;
  }
  any_document_ |= batch.any_document;
  out = std::move(batch.out);
  return true;
}

}  // namespace nereus::data
