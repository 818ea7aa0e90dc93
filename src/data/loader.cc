#include "data/loader.h"

namespace nereus::data {

Loader::Loader(std::unique_ptr<RowSource> source, const RowPlan& plan, int ahead)
    : source_(std::move(source)),
      rows_(plan.local_rows()),
      tokens_(plan.local_rows() * plan.seq_len),
      ahead_(static_cast<size_t>(ahead)),
      thread_([this] { work(); }) {}

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
      Batch batch;
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return stopping_ || ready_.size() < ahead_; });
        if (stopping_) return;
        if (!free_.empty()) {
          batch = std::move(free_.front());
          free_.pop_front();
        }
      }
      batch.inputs.resize(static_cast<size_t>(tokens_));
      batch.labels.resize(static_cast<size_t>(tokens_));
      batch.rows = source_->next(rows_, batch.inputs, batch.labels);
      const std::lock_guard lock(mutex_);
      status_ = source_->status();
      ended_ = batch.rows < rows_;
      ready_.push_back(std::move(batch));
      changed_.notify_all();
      if (ended_) return;
    }
  } catch (...) {
    const std::lock_guard lock(mutex_);
    failure_ = std::current_exception();
    changed_.notify_all();
  }
}

const Batch& Loader::next() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return failure_ || !ready_.empty() || ended_; });
  if (ready_.empty()) {
    if (failure_) std::rethrow_exception(failure_);
    current_.rows = 0;  // after the end
    return current_;
  }
  std::swap(current_, ready_.front());
  free_.push_back(std::move(ready_.front()));
  ready_.pop_front();
  changed_.notify_all();
  return current_;
}

SourceStatus Loader::status() const {
  const std::lock_guard lock(mutex_);
  return status_;
}

}  // namespace nereus::data
