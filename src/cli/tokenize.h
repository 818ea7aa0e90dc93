// nereus tokenize encode | decode | stream | bench
#pragma once

namespace nereus {

// Arguments after `nereus tokenize`. Returns the exit code; throws Error.
int run_tokenize(int argc, char** argv);

}  // namespace nereus
