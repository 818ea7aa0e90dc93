// `nereus report`: a page, lines or JSON of runs.
#pragma once

namespace nereus {

int run_report(int argc, char** argv);

}  // namespace nereus
