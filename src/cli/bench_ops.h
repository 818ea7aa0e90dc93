// nereus bench ops [--threads N] [--filter TEXT] [--quick] [--cpu]: times the CPU ops at the shapes
// of the debug and the tiny model.
#pragma once

namespace nereus {

// Arguments after `nereus bench`. Returns the exit code; throws Error.
int run_bench_ops(int argc, char** argv);

}  // namespace nereus
