#include "launch/log_ranks.h"

#include <sstream>

#include "base/check.h"

namespace nereus {

std::set<int> log_ranks(const std::string& text) {
  if (text.empty()) return {0};
  std::set<int> ranks;
  std::stringstream list(text);
  for (std::string item; std::getline(list, item, ',');) {
    NEREUS_CHECK(kConfig,
                 !item.empty() && item.size() < 8 &&
                     item.find_first_not_of("0123456789") == std::string::npos,
                 "LOG_RANK = \"{}\": it must be ranks, separated by commas: 0, or 0,8", text);
    ranks.insert(std::stoi(item));
  }
  return ranks;
}

void check_log_ranks(const std::set<int>& ranks, int64_t world) {
  NEREUS_CHECK(kConfig, *ranks.rbegin() < world,
               "LOG_RANK names rank {}, and the run has ranks 0 to {}: leave it out (every rank "
               "knows the loss, and rank 0 writes), or name one of them.",
               *ranks.rbegin(), world - 1);
}

}  // namespace nereus
