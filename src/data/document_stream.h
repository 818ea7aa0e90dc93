// Tokenised documents of a text data set in the order of its lines, whatever the number of threads.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "data/dealer.h"
#include "data/line_reader.h"
#include "data/row_source.h"

namespace nereus::data {

struct Document {
  int64_t document = 0;  // of the run: counts lines over all passes
  int64_t stream = 0;
  int64_t text_bytes = 0;
  std::vector<int32_t> ids;  // BOS and EOS included
};

struct DocumentBatch {
  ReadPosition begin;        // of its first line
  int64_t end_document = 0;  // of the line behind its last one, which is of the same pass
  std::vector<Document> documents;
};

// Worker threads take turns at reading a batch of lines, then parse and tokenise it; batches come
// out in the order in which they were read, and no more than a few wait.
class DocumentStream {
 public:
  // wanted(stream, document): should the document be tokenised and returned? Others are skipped.
  using Wanted = std::function<bool(int64_t stream, int64_t document)>;
  // What is said of shards that are passed over, where on_broken_shard is skip.
  struct BrokenShards {
    std::set<std::string> known = {};  // nothing more is said of them
    bool of_this_rank = false;         // no other rank reads them: it speaks for itself
  };
  DocumentStream(const TextOptions&, std::vector<std::string> shards, BrokenShards, const Dealer&,
                 ReadPosition start, Wanted);
  ~DocumentStream();

  // The next batch, which may have no document. False at the end of a source that does not loop.
  // Rethrows an exception of a worker after the batches before it have been returned.
  bool next(DocumentBatch&);

  // Lines left out and parts replaced, by stream, of the batches returned; streams without any may
  // be missing.
  struct Mended {
    int64_t not_json = 0, without_text = 0, replaced = 0;
  };
  const std::map<int64_t, Mended>& mended() const { return mended_; }
  int64_t broken_shards() const { return passed_over_; }
  // Is there a document in them, of any rank?
  bool any_document() const { return any_document_; }

 private:
  struct Lines;
  struct Batch;
  void work();
  std::unique_ptr<LineReader> open(size_t shard = 0, int64_t line = 0) const;
  bool read(Lines&);  // one worker at a time
  bool next_line(std::string&);
  void tokenise(const Lines&, const TextOptions::Encode&, Batch&);

  TextOptions options_;
  std::vector<std::string> shards_;
  BrokenShards broken_shards_;
  Dealer dealer_;
  Wanted wanted_;

  std::mutex reading_;  // guards the reader and where it is
  std::unique_ptr<LineReader> reader_;
  ReadPosition at_;
  int64_t read_batches_ = 0;
  bool ended_ = false;
  std::exception_ptr broken_;  // why nothing comes after the batches read so far
  std::atomic<int64_t> passed_over_ = 0;
  std::atomic<bool> found_ = false;  // a document, of any rank

  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::map<int64_t, Batch> ready_;
  int64_t next_batch_ = 0;
  int64_t last_batch_ = -1;     // known once the reader ended
  std::exception_ptr failure_;  // not of one batch
  bool stopping_ = false;
  std::map<int64_t, Mended> mended_;  // the consumer's, as what follows
  bool said_not_json_ = false, said_without_text_ = false, said_replaced_ = false;
  bool any_document_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace nereus::data
