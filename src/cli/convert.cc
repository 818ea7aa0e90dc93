#include "cli/convert.h"

#include <CLI/CLI.hpp>
#include <cstdio>

#include "base/check.h"
#include "base/text.h"
#include "checkpoint/convert.h"
#include "checkpoint/listing.h"
#include "cli/command.h"
#include "cli/progress_bar.h"
#include "train/conversion.h"

namespace nereus {
namespace {

std::optional<DType> type_of(const std::string& word) {
  if (word == "float32") return DType::f32;
  if (word == "bfloat16") return DType::bf16;
  if (word == "float16") return DType::f16;
  return std::nullopt;
}

}  // namespace

int run_convert(int argc, char** argv) {
  CLI::App app(
      "Weights to another type, in files of another size. They are read and written piece by\n"
      "piece: memory does not grow with the model. What is interrupted goes on when the same\n"
      "command is started again.",
      "nereus convert");
  ConvertRequest request;
  std::string format = "hf", dtype;
  uint64_t shard_size = kShardBytes;
  bool dry_run = false;
  app.add_option(
         "--from", request.from,
         "folder (or file) of Hugging Face weights, of which FP8 is multiplied by its scales, or a "
         "native checkpoint, step-N")
      ->required();
  app.add_option("--to", request.to, "folder to make")->required();
  app.add_option("--format", format, "hf: Hugging Face's layout; native: a checkpoint of weights")
      ->check(CLI::IsMember({"hf", "native"}))
      ->capture_default_str();
  app.add_option("--dtype", dtype,
                 "bfloat16, float32 or float16; default: as they are, and bfloat16 for FP8")
      ->check(CLI::IsMember({"bfloat16", "float32", "float16"}));
  app.add_option("--shard-size", shard_size, "bytes of a file at most: 5GB, 500MB, 2GiB")
      ->transform(CLI::AsSizeValue(true))
      ->default_str("5GB");
  app.add_flag("--dry-run", dry_run, "say what would be written, and stop");
  if (const std::optional<int> done = parse_command(app, argc, argv)) return *done;
  NEREUS_CHECK(kConfig, shard_size > 0 && shard_size < (uint64_t{1} << 62),
               "--shard-size {}: it must be above 0: 5GB is usual", shard_size);
  request.dtype = type_of(dtype);
  request.shard_bytes = static_cast<int64_t>(shard_size);
  if (format == "native") request.format = ConvertRequest::Format::native;
  describe_model(request, "nereus " NEREUS_VERSION);
  const ConversionPlan plan = plan_conversion(request);
  fmt::print("{}: {} tensors{}, the largest of {}\n{}: {} in {} files\n", request.from,
             plan.tensors,
             plan.scaled > 0 ? fmt::format(", {} of them FP8 with scales", plan.scaled) : "",
             size_text(plan.largest), request.to, size_text(plan.bytes), plan.files);
  if (!plan.unused.empty())
    fmt::print(
        "{} tensors that training does not use (multi-token prediction, rotary tables) are "
        "kept: {}\n",
        plan.unused.size(), first_of(plan.unused));
  std::fflush(stdout);
  if (dry_run) return 0;
  ConvertProgress done;
  {
    ProgressBar bar(stdout);
    done = convert_weights(request, [&](const ConvertProgress& p) {
      bar.show(p.bytes, p.of_bytes, p.found, fmt::format(", {} of {} files", p.files, p.of_files));
    });
  }
  fmt::print("{} is complete: {} files, {}\n", request.to, done.of_files, size_text(done.of_bytes));
  return 0;
}

}  // namespace nereus
