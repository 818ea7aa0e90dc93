#include "cli/probe.h"

#include <CLI/CLI.hpp>

#include "cli/command.h"
#include "cli/compute_options.h"
#include "train/probe.h"

namespace nereus {

int run_probe(int argc, char** argv) {
  CLI::App app("Forward (and backward) on given tokens; writes what the model makes of them",
               "nereus probe");
  ProbeOptions o;
  ComputeOptions compute;
  std::string args, grads;
  int64_t eos = -1;
  app.add_option("--hf", o.model, "folder (or file) of Hugging Face weights")->required();
  app.add_option(
         "--tokens", o.tokens,
         "safetensors with input_ids [B,S] (Hugging Face's shifted loss and numerics), or inputs "
         "and labels [B,S] (TorchTitan's)")
      ->required();
  app.add_option("--output", o.output,
                 "safetensors to write: logits, loss, hidden.*, router.*, ...")
      ->required();
  app.add_option("--grads", grads, "safetensors to write: gradients under Hugging Face's names");
  app.add_option("--args", args,
                 "torchtitan_args.json: TorchTitan's arguments instead of config.json's");
  app.add_option("--eos-id", eos, "token that ends a document, for block_causal");
  compute.add_to(app);
  if (const std::optional<int> done = parse_command(app, argc, argv)) return *done;
  if (!grads.empty()) o.grads = grads;
  if (!args.empty()) o.args = args;
  if (eos >= 0) o.eos_id = eos;
  o.compute = compute.dtype();
  ThreadPool pool(compute.threads());
  Stream stream(compute.device(), &pool);
  probe(stream, o);
  return 0;
}

}  // namespace nereus
