#include "parallel/copy_beside.h"

#include <algorithm>

#include "device/host_memory.h"

namespace nereus {

void CopyBeside::enqueued(Stream& copier, int64_t end) {
  marks_.push_back({end, std::make_unique<Event>(copier.device())});
  marks_.back().there->record(copier);
}

void CopyBeside::copied_on_host(int64_t end) {
  {
    const std::lock_guard lock(mutex_);
    on_host_ = end;
  }
  came_.notify_all();
}

void CopyBeside::synchronize() const {
  if (!marks_.empty()) marks_.back().there->synchronize();
}

int64_t CopyBeside::wait(Stream& stream, int64_t begin, int64_t end) const {
  const auto mark = std::upper_bound(marks_.begin(), marks_.end(), begin,
                                     [](int64_t at, const Mark& m) { return at < m.end; });
  if (mark == marks_.end()) return end;  // nothing of them is copied
  mark->there->wait(stream);
  return std::min(mark->end, end);
}

void CopyBeside::wait_on_host(Stream& stream, int64_t end) {
  call_on_host(stream, [self = shared_from_this(), end] {
    std::unique_lock lock(self->mutex_);
    self->came_.wait(lock, [&] { return self->on_host_ >= end; });
  });
}

}  // namespace nereus
