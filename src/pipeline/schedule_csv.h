// A schedule as a table: one line a rank, one cell a computation, in PyTorch's notation.
//
//   0F0,0F1,0B0,0B1           stage, pass, microbatch; a pass is F, B, I (dgrad) or W (wgrad)
//   (1F3;2B0)OVERLAP_F_B      one forward and one backward of different microbatches
//
// Empty cells are idle time. Cells of communication (UNSHARD, RESHARD, REDUCE_GRAD, SEND_F, RECV_F,
// SEND_B, RECV_B) are read and made anew: they follow from the computations.
#pragma once

#include <string>

#include "pipeline/schedule.h"

namespace nereus {

// Throws Error{kConfig} naming file, line, cell and rule: a cell that cannot be read, a number of
// lines that is not `ranks`, a list that is no step, a schedule that would wait for ever.
Schedule read_schedule_csv(const std::string& path, int ranks);
Schedule parse_schedule_csv(const std::string& text, int ranks, const std::string& path);

// The computations.
std::string schedule_csv(const Schedule&);

}  // namespace nereus
