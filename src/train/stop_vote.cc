#include "train/stop_vote.h"

namespace nereus {

StopVote::StopVote(Stream& stream, Communicator* world)
    : stream_(stream),
      world_(world),
      buffer_(stream.device(), 4, "stop vote"),
      vote_(buffer_.data(), DType::i32, {1}) {}

void StopVote::cast(int signal) {
  mine_ = signal;
  if (world_ == nullptr) return;
  copy_to_device(stream_, vote_, &mine_);
  world_->all_reduce(stream_, vote_, ReduceOp::max);
}

int StopVote::result() {
  if (world_ == nullptr) return mine_;
  int32_t signal = 0;
  copy_to_host(stream_, &signal, vote_);
  stream_.synchronize();
  return signal;
}

}  // namespace nereus
