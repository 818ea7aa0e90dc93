// TensorBoard's event files, with TorchTitan's tags and ours (observe/metrics.cc).
//
// A file is records: u64 length, u32 masked CRC-32C of it, the bytes of an Event, u32 masked
// CRC-32C of them, all little-endian. Event (tensorflow/core/util/event.proto): 1 double wall_time,
// 2 int64 step, 3 string file_version, 5 Summary, 7 SessionLog { 1 status }; Summary: 1 Value { 1
// tag, 2 float simple_value, 5 HistogramProto { 1 min, 2 max, 3 num, 4 sum, 5 sum_squares, 6
// bucket_limit, 7 bucket } }.
//
// The first record of a file is its version, "brain.Event:2". The second is a SessionLog START at
// the first step that this file will have: readers drop what an earlier file of the folder says of
// that step and those after it, so that steps trained again after a kill are shown once.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "observe/sink.h"

namespace nereus {

class TensorBoardSink final : public Sink {
 public:
  // A new file in `folder`, which exists; readers take a folder's files in the order of their
  // names, which begin with a time: `now`, Unix seconds, or later than that of all files there.
  TensorBoardSink(const std::string& folder, double now, int64_t first_step);
  void step(const StepMetrics&) override;
  void experts(int64_t step, double time, const ExpertTable&) override;
  void validation(const ValidationMetrics&) override;
  const AppendFile* file() const override { return &file_; }

 private:
  void add_scalar(std::string_view tag, double);
  void write_summary(double time, int64_t step);
  void append_record();  // of event_, to records_
  void flush();

  AppendFile file_;
  std::string summary_, event_, records_;  // kept for their memory
};

}  // namespace nereus
