// `nereus setup`: the installer.
#pragma once

namespace nereus {

int run_setup_command(int argc, char** argv);

}  // namespace nereus
