// `nereus checkpoint show|verify|diff`: what is in a native checkpoint, whether it is whole, where
// two differ.
#pragma once

namespace nereus {

// argv[0] is the subcommand's name.
int run_checkpoint(int argc, char** argv);

}  // namespace nereus
