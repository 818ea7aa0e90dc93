// A second stream for work that can run concurrently with what a stream does next.
//
//   Stream& second = side.fork(stream);  // follows all that `stream` has been given so far, and
//   ...                                  // runs concurrently with what it gets next
//   side.join(stream);                   // what `stream` is given next follows it
//
// Memory that either uses in between is in use until join(): no arena's scope may end before. On
// the meta device nothing runs concurrently, and fork() gives `stream` itself.
#pragma once

#include "device/device.h"

namespace nereus {

class SideStream {
 public:
  virtual ~SideStream() = default;
  virtual Stream& fork(Stream& stream) = 0;
  virtual void join(Stream& stream) = 0;
};

class GpuSideStream final : public SideStream {
 public:
  explicit GpuSideStream(Device device, TraceRecorder* trace = nullptr)
      : stream_(device), forked_(device), done_(device) {
    stream_.set_trace(trace);
  }

  Stream& fork(Stream& stream) override {
    if (stream.on_meta()) return stream;
    forked_.record(stream);
    forked_.wait(stream_);
    return stream_;
  }
  void join(Stream& stream) override {
    if (stream.on_meta()) return;
    done_.record(stream_);
    done_.wait(stream);
  }

 private:
  Stream stream_;
  Event forked_, done_;
};

}  // namespace nereus
