// As which rank a thread speaks in the log (log::set_rank), for the threads that a rank starts:
//
//   thread_ = std::thread([this, rank = log::this_rank()] { log::speak_as(rank); work(); });
#pragma once

namespace nereus::log {

struct SpeakingRank {
  int rank = -1;
  bool speaks = true;
};

SpeakingRank this_rank();
void speak_as(SpeakingRank);

}  // namespace nereus::log
