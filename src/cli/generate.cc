#include "cli/generate.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <string_view>

#include "base/check.h"
#include "base/log_output.h"
#include "cli/command.h"
#include "cli/compute_options.h"
#include "train/generate.h"

namespace nereus {
namespace {

void print(std::string_view text) {
  const bool written = std::fwrite(text.data(), 1, text.size(), stdout) == text.size();
  NEREUS_CHECK(kIo, written && std::fflush(stdout) == 0, "standard output cannot be written to");
}

}  // namespace

int run_generate(int argc, char** argv) {
  CLI::App app(
      "Goes on with a prompt, token by token, by the forward pass that trains: without a cache,\n"
      "each new token takes a pass over the whole text. Standard output has the new text (or, "
      "with\n"
      "--ids, the new tokens' ids), standard error the log.",
      "nereus generate");
  GenerateOptions o;
  ComputeOptions compute;
  std::string prompt, tokenizer;
  std::vector<int64_t> prompt_ids;
  bool ids = false;
  app.add_option("--checkpoint", o.checkpoint,
                 "folder (or file) of Hugging Face weights, with config.json; or a native "
                 "checkpoint, step-N")
      ->required();
  CLI::Option* text = app.add_option(
      "--prompt", prompt,
      "text to go on with; the tokenizer's BOS comes before it where its configuration says so");
  CLI::Option* numbers =
      app.add_option("--prompt-ids", prompt_ids, "token ids to go on with: 1,2,3")->delimiter(',');
  CLI::Option* folder = app.add_option("--tokenizer", tokenizer,
                                       "folder with tokenizer.json; default: the checkpoint's");
  app.add_option("--max-tokens", o.max_tokens, "new tokens, unless one ends the text")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 24))
      ->capture_default_str();
  app.add_option("--temperature", o.sampling.temperature,
                 "divides the logits; 0: always the most probable token")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  app.add_option("--top-p", o.sampling.top_p,
                 "draw among the most probable tokens that together reach this")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  app.add_option("--seed", o.sampling.seed, "another seed, another text")->capture_default_str();
  app.add_flag("--ids", ids,
               "print the new tokens' ids, separated by spaces, in place of their text; with "
               "--prompt-ids no tokenizer is needed then");
  compute.add_to(app);
  if (const std::optional<int> done = parse_command(app, argc, argv)) return *done;
  NEREUS_CHECK(kConfig, (text->count() > 0) != (numbers->count() > 0),
               "nereus generate: {}; a text to go on with is needed, as --prompt TEXT or as "
               "--prompt-ids 1,2,3.",
               text->count() > 0 ? "--prompt and --prompt-ids are both given: leave one out"
                                 : "neither --prompt nor --prompt-ids is given");
  NEREUS_CHECK(kConfig, o.sampling.top_p > 0,
               "--top-p 0: no token would be left; it must be above 0, and at most 1. The most "
               "probable token alone is --temperature 0.");
  if (text->count() > 0) {
    o.prompt = prompt;
  } else {
    o.prompt_ids = prompt_ids;
  }
  if (folder->count() > 0) o.tokenizer = tokenizer;
  o.text = !ids;
  o.compute = compute.dtype();
  const log::ToStandardError log;
  ThreadPool pool(compute.threads());
  Stream stream(compute.device(), &pool);
  const std::vector<int32_t> made = generate(stream, o, print);
  print(ids ? fmt::format("{}\n", fmt::join(made, " ")) : "\n");
  return 0;
}

}  // namespace nereus
