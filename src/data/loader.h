// Batches, prepared ahead of time by a thread and kept until their step is confirmed.
#pragma once

#include <condition_variable>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "data/row_source.h"
#include "device/trace.h"

namespace nereus::data {

struct Batch {
  std::vector<int32_t> inputs, labels;  // rows * seq_len
  int64_t rows = 0;                     // fewer than asked for: the source has ended
  std::optional<int64_t> counted;       // RowSource::counted()
};

class Loader {
 public:
  // `rows` a batch: this rank's part of a step. Keeps up to `ahead` batches ready.
  Loader(std::unique_ptr<RowSource> source, const RowPlan& plan, int ahead = 2);
  ~Loader();

  // The next batch, valid until it is confirmed. Waits for it; rethrows what the source threw.
  const Batch& next();
  // Waits until so many more batches wait to be handed out, at most `ahead`. False: the source
  // fails before that.
  bool has(int64_t batches);
  // What the source threw, if it did. There may still be batches from before.
  std::exception_ptr failure() const;
  void confirm();               // the oldest batch handed out that was not confirmed
  SourceStatus status() const;  // of the batches handed out so far, at least
  // Where the source was after the batch confirmed last: RowSource::save_state().
  const std::string& state() const { return state_; }
  // Who records what the thread does; it must outlive the loader. Null: nobody.
  void set_trace(TraceRecorder* trace);

 private:
  void work();
  struct Item {
    Batch batch;
    std::string state;  // of the source, after it
  };

  std::unique_ptr<RowSource> source_;
  int64_t rows_, tokens_;
  size_t ahead_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Item> ready_, free_;
  std::deque<Item> kept_;  // handed out and not confirmed
  Batch end_;              // of no rows
  std::string state_;
  SourceStatus status_;
  std::exception_ptr failure_;
  TraceRecorder* trace_ = nullptr;
  bool stopping_ = false, ended_ = false;
  std::thread thread_;
};

}  // namespace nereus::data
