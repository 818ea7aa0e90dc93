// How the ranks of a draw's layout are had, and layouts whose ranks are processes.
#pragma once

#include "comm/communicator.h"
#include "engine/compose_judge_test.h"

namespace nereus::compose {

// Calls work(all) on `ranks` threads of this process: that write to each other's memory, or with
// sockets between them, as processes have without MPI. Throws what the first that failed did.
void run_ranks_here(int ranks, bool sockets, FunctionRef<void(Communicator& all)> work);

// Can so many processes do the draw's layout, which is one?
bool fits_processes(const Draw&, int processes);

// This process's part of those draws that fit, one after the other on the first ranks, in f32 on
// `device`. Rank 0 reports the verdicts. What fails otherwise than by a number is thrown.
void check_draws_of_processes(const std::vector<uint64_t>& numbers, Communicator& all,
                              Device device,
                              FunctionRef<void(uint64_t number, const Verdict&)> report);

}  // namespace nereus::compose
