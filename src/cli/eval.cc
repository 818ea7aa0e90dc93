#include "cli/eval.h"

#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/files.h"
#include "base/log.h"
#include "cli/configured_run.h"
#include "train/evaluation.h"

namespace nereus {
namespace {

constexpr const char* kHelp =
    "The loss of a checkpoint on a set of rows, and its perplexity, exp(loss).\n\n"
    "Usage: nereus eval --checkpoint DIR [CONFIG.toml] [--section.key=value ...] [OPTIONS]\n\n"
    "  --checkpoint DIR     folder (or file) of Hugging Face weights, or a native checkpoint, "
    "step-N\n"
    "  CONFIG.toml, --section.key=value\n"
    "                       as for nereus train; what concerns the optimizer has no meaning. The\n"
    "                       model is that of DIR/config.json unless model.flavor, model.hf_config "
    "or\n"
    "                       model.torchtitan_args says another, the tokenizer that of DIR unless\n"
    "                       model.hf_assets_path does\n"
    "  --training.dataset, --training.dataset_path\n"
    "                       the set, all of it once; [validation]'s where validation.enable is set "
    "and\n"
    "                       the command line names no training set. --validation.steps=N takes "
    "the\n"
    "                       first N times validation.local_batch_size rows\n"
    "  --training.seq_len   tokens a row\n"
    "  --nproc N            N ranks on this machine, as for nereus train\n"
    "  --print-config       print every key with where its value comes from, and stop\n"
    "  --json               the result as one line of JSON, the last one\n"
    "  -h, --help           this text\n\n"
    "Exit codes: those of nereus train.\n";

// What eval has besides a run's configuration, taken out of the arguments.
struct EvalFlags {
  std::optional<std::string> checkpoint;
  bool json = false;
  std::vector<std::string> others;
};

EvalFlags eval_flags(const std::vector<std::string>& arguments) {
  EvalFlags out;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& a = arguments[i];
    if (a == "--json") {
      out.json = true;
      continue;
    }
    const bool joined = a.starts_with("--checkpoint=");
    if (!joined && a != "--checkpoint") {
      out.others.push_back(a);
      continue;
    }
    NEREUS_CHECK(kConfig, !out.checkpoint, "--checkpoint is given twice: name one");
    NEREUS_CHECK(kConfig, joined || i + 1 < arguments.size(),
                 "--checkpoint: a value is missing; write --checkpoint DIR");
    out.checkpoint = joined ? a.substr(a.find('=') + 1) : arguments[++i];
  }
  return out;
}

// Model and tokenizer are the checkpoint's unless the configuration names others.
void take_model(LoadedConfig& loaded, const SavedModel& model) {
  const auto named = [&](const char* key) { return loaded.origin.contains(key); };
  if (!named("model.flavor") && !named("model.hf_config") && !named("model.torchtitan_args"))
    model.take_model(loaded);
  if (!named("model.hf_assets_path") && is_there(model.folder() + "/tokenizer.json")) {
    loaded.config.model.hf_assets_path = model.folder();
    loaded.origin["model.hf_assets_path"] = "--checkpoint";
  }
}

DataSet held_out(const LoadedConfig& loaded) {
  const auto on_command_line = [&](const char* key) {
    const auto it = loaded.origin.find(key);
    return it != loaded.origin.end() && it->second == "command line";
  };
  const bool training =
      on_command_line("training.dataset") || on_command_line("training.dataset_path");
  return loaded.config.validation.enable && !training ? validation_set(loaded.config)
                                                      : training_set(loaded.config);
}

void show(const EvaluationResult& r, const std::string& set, bool json) {
  log::info("{}: loss {:.6f}, perplexity {:.4f}; {} tokens ({} labels) in {:.2f} s", set, r.loss,
            r.perplexity(), r.tokens, r.labels, r.seconds);
  if (!json) return;
  nlohmann::ordered_json line;
  line["loss"] = r.loss;
  line["perplexity"] = r.perplexity();
  line["tokens"] = r.tokens;
  line["labels"] = r.labels;
  line["seconds"] = r.seconds;
  std::puts(line.dump().c_str());
  std::fflush(stdout);
}

}  // namespace

int run_eval(int argc, char** argv) {
  const EvalFlags mine = eval_flags({argv + 1, argv + argc});
  TrainFlags flags;
  LoadedConfig loaded = load_run_config(mine.others, flags);
  if (flags.help) {
    std::fputs(kHelp, stdout);
    return 0;
  }
  NEREUS_CHECK(kConfig, !flags.dry_run && !flags.config_reference,
               "nereus eval: --dry-run and --config-reference are nereus train's");
  NEREUS_CHECK(kConfig, mine.checkpoint.has_value(),
               "nereus eval: --checkpoint DIR is needed: the weights to be evaluated.\n  `nereus "
               "eval --help` shows the usage.");
  const SavedModel model(*mine.checkpoint, "--checkpoint");
  take_model(loaded, model);
  if (flags.print_config) {
    std::fputs(print_config(loaded).c_str(), stdout);
    return 0;
  }
  const DataSet set = held_out(loaded);
  return run_configured_ranks(argc, argv, loaded, flags.nproc, [&](Stream& stream, ThisRank& me) {
    me.run([&] {
      const EvaluationResult result =
          evaluate_checkpoint(loaded.config, model, set, stream, me.ranks, me.world);
      if (me.world.rank() == 0) show(result, set.name, mine.json);
    });
    return 0;
  });
}

}  // namespace nereus
