// Ranks end after the same step: a signal that one of them got by the start of a step is known to
// all at its end.
#pragma once

#include "comm/communicator.h"

namespace nereus {

class StopVote {
 public:
  StopVote(Stream&, Communicator* world);  // world null: one rank

  void cast(int signal);  // enqueues; 0: go on
  int result();           // waits for the stream; the highest signal that was cast

 private:
  Stream& stream_;
  Communicator* world_;
  int32_t mine_ = 0;
  Buffer buffer_;
  TensorView vote_;  // i32 [1]
};

}  // namespace nereus
