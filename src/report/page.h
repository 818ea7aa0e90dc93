// The report as one HTML page that needs no network: data, styles and scripts are in it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "report/measure.h"
#include "report/run.h"

namespace nereus::report {

std::string page(const std::vector<Run>& runs, std::optional<Window> window = std::nullopt);

// The files of src/report/page and the plotting library, as the build puts them into the program.
namespace files {
extern const char* const kPage;  // page.html, with @MARKS@
extern const char* const kStyle;
extern const char* const kScript;
extern const char* const kPlotStyle;
extern const char* const kPlotScript;
extern const char* const kPlotLicense;  // of both, which a copy must keep
}  // namespace files

}  // namespace nereus::report
