// `nereus doctor`: the check of a machine before a run.
#pragma once

namespace nereus {

int run_doctor(int argc, char** argv);

}  // namespace nereus
