// nereus generate
#pragma once

namespace nereus {

// Arguments after `nereus generate`. Returns the exit code; throws Error.
int run_generate(int argc, char** argv);

}  // namespace nereus
