// nereus convert
#pragma once

namespace nereus {

// Arguments after `nereus convert`. Returns the exit code; throws Error.
int run_convert(int argc, char** argv);

}  // namespace nereus
