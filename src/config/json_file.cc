#include "config/json_file.h"

#include "base/check.h"
#include "base/fetched.h"

namespace nereus {

nlohmann::json read_json_file(const std::string& path) {
  const std::string text = read_fetched(path);
  try {
    return nlohmann::json::parse(text);
  } catch (const nlohmann::json::exception& e) {
    std::string why = e.what();
    if (const size_t end = why.find("] "); end != std::string::npos) why.erase(0, end + 2);
    NEREUS_FAIL(kConfig, "{}: not JSON: {}. It begins with {}", path, why, shown_start(text));
  }
}

}  // namespace nereus
