#include "cli/probe.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <thread>

#include "cli/command.h"
#include "cli/device_choice.h"
#include "train/probe.h"

namespace nereus {

int run_probe(int argc, char** argv) {
  CLI::App app("Forward (and backward) on given tokens; writes what the model makes of them",
               "nereus probe");
  ProbeOptions o;
  std::string args, grads, dtype = "float32", device = "auto";
  int64_t eos = -1;
  int threads = 0;
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
  app.add_option("--dtype", dtype, "float32 or bfloat16")
      ->check(CLI::IsMember({"float32", "bfloat16"}))
      ->capture_default_str();
  app.add_option("--device", device, "auto, cpu or cuda")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  app.add_option("--threads", threads, "compute threads; 0: as many as cores")
      ->check(CLI::Range(0, 4096));
  if (const std::optional<int> done = parse_command(app, argc, argv)) return *done;
  if (!grads.empty()) o.grads = grads;
  if (!args.empty()) o.args = args;
  if (eos >= 0) o.eos_id = eos;
  o.compute = value_of<DType>(dtype).value();
  ThreadPool pool(threads > 0 ? threads
                              : std::max(1, static_cast<int>(std::thread::hardware_concurrency())));
  Stream stream(choose_device(value_of<DeviceChoice>(device).value()), &pool);
  probe(stream, o);
  return 0;
}

}  // namespace nereus
