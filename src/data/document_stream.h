// Tokenised documents of a text data set in the order of its lines, whatever the number of threads.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "data/line_reader.h"
#include "data/row_source.h"

namespace nereus::data {

struct Document {
  int64_t line = 0;  // of all shards, from 0
  int64_t epoch = 0;
  std::vector<int32_t> ids;  // BOS and EOS included
};

// Worker threads take turns at reading a batch of lines, then parse and tokenise it; batches come
// out in the order in which they were read, and no more than a few wait.
class DocumentStream {
 public:
  // wanted(line, epoch): is the document tokenised and given out? Others are only read past.
  DocumentStream(const TextOptions&, std::vector<std::string> shards,
                 std::function<bool(int64_t, int64_t)> wanted);
  ~DocumentStream();

  // Appends the documents of the next batch (perhaps none). False at the end, without looping.
  // Rethrows what a worker threw.
  bool next(std::vector<Document>& documents);

  int64_t skipped_lines() const { return skipped_; }
  int64_t replaced() const { return replaced_; }

 private:
  struct Lines;
  struct Batch;
  void work();
  bool read(Lines&);  // called by one worker at a time
  Batch tokenise(const Lines&, const TextOptions::Encode&) const;

  TextOptions options_;
  std::function<bool(int64_t, int64_t)> wanted_;
  std::vector<std::string> shards_;

  std::mutex reading_;  // guards the reader and where it is
  std::unique_ptr<LineReader> reader_;
  int64_t line_ = 0, epoch_ = 0, read_batches_ = 0;
  bool ended_ = false, any_line_ = false;

  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::map<int64_t, Batch> ready_;
  int64_t next_batch_ = 0;
  int64_t last_batch_ = -1;  // known once the reader ended
  std::exception_ptr failure_;
  bool stopping_ = false;
  int64_t skipped_ = 0, replaced_ = 0;  // the consumer's
  std::vector<std::thread> threads_;
};

}  // namespace nereus::data
