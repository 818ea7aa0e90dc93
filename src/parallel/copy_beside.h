// How far a copy of a rank's flat states has come that goes on beside a step: who changes states
// waits until they have been copied. The copy goes in the order of the update, slice after slice,
// so that the update of a slice waits for that slice alone.
//
//   states in the device's memory   copied on a stream: an event behind every slice, for which the
//                                   stream of the update waits
//   states in host memory           copied by a thread: what writes to them on a stream waits
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "device/device.h"

namespace nereus {

class CopyBeside : public std::enable_shared_from_this<CopyBeside> {
 public:
  // By who copies, with ascending `end`: elements below it, and not below the last one, are copied
  // when the stream has passed what is enqueued on it;
  void enqueued(Stream& copier, int64_t end);
  // or have been, those in host memory.
  void copied_on_host(int64_t end);
  // All of the first kind are: the host waits.
  void synchronize() const;

  // By who changes elements [begin, end), once all enqueued() calls have been made: what is
  // enqueued on the stream from here on may change those below the place returned, which is in
  // (begin, end].
  int64_t wait(Stream&, int64_t begin, int64_t end) const;
  // Likewise those in host memory below `end`.
  void wait_on_host(Stream&, int64_t end);

 private:
  struct Mark {
    int64_t end;
    std::unique_ptr<Event> there;
  };
  std::vector<Mark> marks_;
  std::mutex mutex_;
  std::condition_variable came_;
  int64_t on_host_ = 0;
};

}  // namespace nereus
