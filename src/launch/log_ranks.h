// LOG_RANK: which ranks write log lines, as TorchTitan's launcher reads it.
#pragma once

#include <set>
#include <string>

namespace nereus {

// "0", "0,8"; "" is rank 0. Throws Error{kConfig} for what is no rank.
std::set<int> log_ranks(const std::string& text);

// Throws Error{kConfig} for a rank that a run of `world` ranks does not have: nobody would write.
void check_log_ranks(const std::set<int>& ranks, int64_t world);

}  // namespace nereus
