// nereus bench data
#pragma once

namespace nereus {

// Arguments after `nereus bench`. Returns the exit code; throws Error.
int run_bench_data(int argc, char** argv);

}  // namespace nereus
