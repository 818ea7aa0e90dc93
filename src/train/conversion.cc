#include "train/conversion.h"

#include <ctime>

#include "base/check.h"
#include "base/files.h"
#include "checkpoint/hf_config.h"
#include "train/run_state.h"
#include "train/saved_model.h"

namespace nereus {
namespace {

std::string now_text() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text;
}

}  // namespace

void describe_model(ConvertRequest& r, const std::string& program) {
  const SavedModel model(r.from, "--from");
  const bool has_config = is_there(model.config());
  if (model.is_native() && !has_config)
    r.config_json = hf_config_json(model.args(), r.dtype.value_or(DType::f32));
  if (r.format != ConvertRequest::Format::native) return;
  const ModelArgs args = model.args();
  RunState s;
  s.weights_only = true;
  s.program = program;
  s.time = now_text();
  s.layout = "converted";
  JobConfig config;
  if (has_config) config.model.hf_config = absolute_path(model.config());
  s.config = config_values(config);
  s.model = model_facts(args);
  s.fingerprint = model_fingerprint(args);
  r.run = to_json(s);
}

}  // namespace nereus
