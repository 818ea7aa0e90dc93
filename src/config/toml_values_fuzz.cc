// Any bytes as TOML: a configuration that prints and reads back, or one Error of the user.
#include <cstdlib>
#include <string>

#include "base/check.h"
#include "config/load.h"
#include "test/fuzz.h"

namespace nereus {

NEREUS_FUZZ(toml_values, data) {
  const std::string text(data.begin(), data.end());
  LoadedConfig read;
  try {
    read_toml(text, "fuzz.toml", read);
    check_config(read, 1);
  } catch (const Error& e) {
    NEREUS_CHECK(kContract, e.fault() == Fault::kConfig, "not the user's fault: {}", e.what());
    return;
  }
  const std::string printed = print_config(read);
  LoadedConfig again;
  read_toml(printed, "printed.toml", again);
  again.origin = read.origin;
  NEREUS_CHECK(kContract, print_config(again) == printed, "printed differently:\n{}", printed);
}

}  // namespace nereus
