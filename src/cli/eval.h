// nereus eval
#pragma once

namespace nereus {

// Arguments after `nereus eval`. Returns the exit code; throws Error.
int run_eval(int argc, char** argv);

}  // namespace nereus
