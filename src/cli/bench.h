// nereus bench ops | gpu | slice | step | data
#pragma once

namespace nereus {

// Arguments after `nereus bench`. Returns the exit code; throws Error.
int run_bench(int argc, char** argv);

}  // namespace nereus
