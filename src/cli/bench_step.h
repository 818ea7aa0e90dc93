// nereus bench step
#pragma once

namespace nereus {

// Arguments after `nereus bench step`. Returns the exit code; throws Error.
int run_bench_step(int argc, char** argv);

}  // namespace nereus
