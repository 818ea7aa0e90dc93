#pragma once

namespace nereus {

// `nereus recipe`: the part of the recipe's launch.sh that is not shell.
int run_recipe(int argc, char** argv);

}  // namespace nereus
