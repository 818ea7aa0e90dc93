// nereus probe
#pragma once

namespace nereus {

// Arguments after `nereus probe`. Returns the exit code; throws Error.
int run_probe(int argc, char** argv);

}  // namespace nereus
