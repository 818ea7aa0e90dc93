#include "data/loader.h"

#include "base/check.h"
#include "base/log_rank.h"

namespace nereus::data {

Loader::Loader(std::unique_ptr<RowSource> source, const RowPlan& plan, int ahead)
    : source_(std::move(source)),
      rows_(plan.local_rows()),
      tokens_(plan.local_rows() * plan.seq_len),
      ahead_(static_cast<size_t>(ahead)) {
  state_ = source_->save_state();
  thread_ = std::thread([this, rank = log::this_rank()] {
    log::speak_as(rank);
    work();
  });
}

Loader::~Loader() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Loader::work() {
  try {
    for (;;) {
      Item item;
      TraceRecorder* trace = nullptr;
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return stopping_ || ready_.size() < ahead_; });
        if (stopping_) return;
        trace = trace_;
        if (!free_.empty()) {
          item = std::move(free_.front());
          free_.pop_front();
        }
      }
      Batch& batch = item.batch;
      batch.inputs.resize(static_cast<size_t>(tokens_));
      batch.labels.resize(static_cast<size_t>(tokens_));
      {
        const TraceRange range(trace, TraceKind::data, "prepare a batch");
        batch.rows = source_->next(rows_, batch.inputs, batch.labels);
      }
      const bool whole = batch.rows == rows_;
      if (whole) {
        batch.counted = source_->counted();
        item.state = source_->save_state();
      }
      const std::lock_guard lock(mutex_);
      status_ = source_->status();
      ended_ = !whole;
      ready_.push_back(std::move(item));
      changed_.notify_all();
      if (ended_) return;
    }
  } catch (...) {
    const std::lock_guard lock(mutex_);
    failure_ = std::current_exception();
    changed_.notify_all();
  }
}

void Loader::set_trace(TraceRecorder* trace) {
  const std::lock_guard lock(mutex_);
  trace_ = trace;
}

const Batch& Loader::next() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return failure_ || !ready_.empty() || ended_; });
  if (ready_.empty()) {
    if (failure_) std::rethrow_exception(failure_);
    return end_;
  }
  kept_.push_back(std::move(ready_.front()));
  ready_.pop_front();
  changed_.notify_all();
  return kept_.back().batch;
}

bool Loader::has(int64_t batches) {
  const auto n = static_cast<size_t>(batches);
  NEREUS_CHECK(kContract, n <= ahead_, "{} batches are never ready, only {}", n, ahead_);
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return failure_ || ended_ || ready_.size() >= n; });
  return !failure_ || ready_.size() >= n;
}

std::exception_ptr Loader::failure() const {
  const std::lock_guard lock(mutex_);
  return failure_;
}

void Loader::confirm() {
  NEREUS_CHECK(kContract, !kept_.empty(), "every batch that was handed out has been confirmed");
  state_ = kept_.front().state;
  const std::lock_guard lock(mutex_);
  free_.push_back(std::move(kept_.front()));
  kept_.pop_front();
}

SourceStatus Loader::status() const {
  const std::lock_guard lock(mutex_);
  return status_;
}

}  // namespace nereus::data
