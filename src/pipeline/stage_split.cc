#include "pipeline/stage_split.h"

#include <algorithm>

#include "base/check.h"
#include "pipeline/schedule.h"

namespace nereus {
namespace {

constexpr const char* kLess =
    "parallelism.pipeline_parallel_first_stage_less_layers = {}, "
    "parallelism.pipeline_parallel_last_stage_less_layers = {}";

std::string less_text(int64_t first_less, int64_t last_less) {
  return fmt::format(fmt::runtime(kLess), first_less, last_less);
}

}  // namespace

int stages_per_rank(const JobConfig::Parallelism& p, const std::string& schedule, int64_t layers) {
  const int64_t pp = p.pipeline_parallel_degree;
  const bool single = is_single_stage(schedule);
  if (p.module_fqns_per_model_part) {
    const auto stages = static_cast<int64_t>(p.module_fqns_per_model_part->size());
    NEREUS_CHECK(kConfig, stages > 0 && stages % pp == 0,
                 "num_stages {} must be evenly divisible by pp_degree {}\n  "
                 "parallelism.module_fqns_per_model_part has {} parts, "
                 "parallelism.pipeline_parallel_degree = {}.\n  Name as many parts as ranks, or a "
                 "multiple of them.",
                 stages, pp, stages, pp);
    return static_cast<int>(stages / pp);
  }
  if (!p.pipeline_parallel_layers_per_stage) return single ? 1 : 2;

  const int64_t each = *p.pipeline_parallel_layers_per_stage;
  const int64_t effective = layers + p.pipeline_parallel_first_stage_less_layers +
                            p.pipeline_parallel_last_stage_less_layers;
  const int64_t stages = (effective + each - 1) / each;
  const std::string info =
      fmt::format("Model has {} layers with pipeline_parallel_layers_per_stage={}", layers, each);
  const std::string keys = fmt::format(
      "\n  parallelism.pipeline_parallel_schedule = \"{}\", "
      "parallelism.pipeline_parallel_degree = {}, {}.",
      schedule, pp,
      less_text(p.pipeline_parallel_first_stage_less_layers,
                p.pipeline_parallel_last_stage_less_layers));
  NEREUS_CHECK(
      kConfig, stages % pp == 0,
      "Number of virtual stages ({}) must be divisible by pipeline parallel size ({}). {}. "
      "Please adjust pipeline_parallel_layers_per_stage to a value that results in a "
      "number of stages divisible by the pipeline parallel size.{}",
      stages, pp, info, keys);
  const int64_t per_rank = stages / pp;
  NEREUS_CHECK(kConfig, !single || per_rank == 1,
               "Single stage schedule requires exactly 1 stage per rank, but got {} stages per "
               "rank. {}. Please increase pipeline_parallel_layers_per_stage to {} or higher to "
               "achieve 1 stage per rank.{}",
               per_rank, info, (effective + pp - 1) / pp, keys);
  NEREUS_CHECK(kConfig, single || schedule.empty() || per_rank >= 2,
               "Multi-stage schedule requires at least 2 stages per rank, but got {} stages per "
               "rank. {}. Please decrease pipeline_parallel_layers_per_stage to achieve at least 2 "
               "stages per rank.{}",
               per_rank, info, keys);
  return static_cast<int>(per_rank);
}

std::vector<Stage::Part> split_layers(int64_t layers, int stages, int64_t first_less,
                                      int64_t last_less) {
  NEREUS_CHECK(kContract, stages >= 1 && layers >= 0, "{} layers on {} stages", layers, stages);
  if (stages == 1) return {{.first_block = 0, .end_block = layers}};
  const int64_t effective = layers + first_less + last_less;
  const std::string keys = fmt::format("{} layers, {}", layers, less_text(first_less, last_less));
  NEREUS_CHECK(kConfig, stages <= effective,
               "Number of stages ({}) cannot be greater than effective layers ({})\n  {}.\n  Use a "
               "lower pipeline_parallel_degree, or fewer stages a rank.",
               stages, effective, keys);
  const int64_t least = effective / stages, more = effective % stages;
  NEREUS_CHECK(kConfig, first_less <= least,
               "input_weight ({}) exceeds minimum layers per stage ({}).\n  {} on {} stages.\n  "
               "Lower pipeline_parallel_first_stage_less_layers to {}.",
               first_less, least, keys, stages, least);
  NEREUS_CHECK(kConfig, last_less <= least,
               "output_weight ({}) exceeds minimum layers per stage ({}).\n  {} on {} stages.\n  "
               "Lower pipeline_parallel_last_stage_less_layers to {}.",
               last_less, least, keys, stages, least);
  std::vector<Stage::Part> out;
  int64_t layer = 0;
  for (int s = 0; s < stages; ++s) {
    int64_t n = least + (s < more ? 1 : 0);
    if (s == 0) n -= first_less;
    if (s + 1 == stages) n -= last_less;
    const int64_t end = std::min(layers, layer + n);
    out.push_back(
        {.first_block = layer, .end_block = end, .embedding = s == 0, .head = s + 1 == stages});
    layer = end;
  }
  return out;
}

std::vector<Stage::Part> split_by_names(int64_t layers, const std::vector<Strings>& names) {
  const auto refuse = [](size_t part, const std::string& what) {
    NEREUS_FAIL(
        kConfig,
        "parallelism.module_fqns_per_model_part: part {}: {}.\n  The parts name "
        "tok_embeddings, layers.0, layers.1, ..., norm and output, each once, in this order; "
        "norm and output stand together in the last.",
        part, what);
  };
  std::vector<Stage::Part> out;
  int64_t layer = 0;
  bool norm = false, output = false;
  for (size_t i = 0; i < names.size(); ++i) {
    Stage::Part part{.first_block = layer, .end_block = layer, .embedding = false, .head = false};
    for (const std::string& name : names[i]) {
      if (norm && name != "output") refuse(i, fmt::format("{} comes after norm", name));
      if (name == "tok_embeddings") {
        if (i > 0 || part.embedding || part.end_block > part.first_block)
          refuse(i, "tok_embeddings is not first");
        part.embedding = true;
      } else if (name == fmt::format("layers.{}", layer) && layer < layers) {
        part.end_block = ++layer;
      } else if (name == "norm") {
        norm = true;
      } else if (name == "output" && norm && !output) {
        output = part.head = true;
      } else {
        refuse(i, fmt::format("{} where {} is expected", name,
                              layer < layers ? fmt::format("layers.{}", layer)
                              : norm         ? std::string("output")
                                             : std::string("norm")));
      }
    }
    if (i == 0 && !part.embedding) refuse(i, "tok_embeddings is missing");
    if (norm && !part.head) refuse(i, "norm without output");
    out.push_back(part);
  }
  if (layer < layers)
    refuse(names.size() - 1, fmt::format("layers.{} is in no part, of {} layers", layer, layers));
  if (!output) refuse(names.size() - 1, "norm and output are in no part");
  return out;
}

std::vector<Stage::Part> split_model(const JobConfig::Parallelism& p, int64_t layers, int stages) {
  if (!p.module_fqns_per_model_part)
    return split_layers(layers, stages, p.pipeline_parallel_first_stage_less_layers,
                        p.pipeline_parallel_last_stage_less_layers);
  const auto parts = static_cast<int>(p.module_fqns_per_model_part->size());
  NEREUS_CHECK(kConfig, parts == stages,
               "parallelism.module_fqns_per_model_part has {} parts, and the schedule {} stages: "
               "name one part a stage.",
               parts, stages);
  return split_by_names(layers, *p.module_fqns_per_model_part);
}

int pipeline_microbatches(int64_t local_batch, int64_t microbatch) {
  NEREUS_CHECK(kConfig, local_batch % microbatch == 0,
               "Batch size {} must be divisible by microbatch_size {}. Update the config arguments "
               "for either batch_size or pipeline_parallel_microbatch_size.\n  "
               "training.local_batch_size = {}, parallelism.pipeline_parallel_microbatch_size = "
               "{}.",
               local_batch, microbatch, local_batch, microbatch);
  return static_cast<int>(local_batch / microbatch);
}

std::string few_microbatches_warning(int microbatches, int stages, double bubble) {
  if (microbatches >= stages) return "";
  return fmt::format(
      "Number of microbatches ({}) is less than the total number of stages ({}) which may result "
      "in a bubble in the pipeline. Here ranks are idle {:.1f} % of the step.",
      microbatches, stages, 100 * bubble);
}

}  // namespace nereus
