#include "train/run_report.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/files.h"
#include "base/log.h"
#include "config/model_flops.h"
#include "control/tcp.h"
#include "device/cuda_runtime.h"
#include "observe/device_info.h"
#include "observe/prometheus_sink.h"

#ifndef NEREUS_VERSION
#define NEREUS_VERSION "?"
#endif
#ifdef __clang__
#define NEREUS_COMPILER "clang " __clang_version__
#else
#define NEREUS_COMPILER "g++ " __VERSION__
#endif

namespace nereus {
RunReport::RunReport(const JobConfig& config, const ModelArgs& args, const RunLayout& layout,
                     Stream& stream)
    : config_(config), args_(args), layout_(layout), stream_(stream) {}

void RunReport::open_port() {
  const auto& m = config_.metrics;
  if (m.prometheus_port > 0)
    sinks_.add(std::make_unique<PrometheusSink>(m.prometheus_address, m.prometheus_port));
}

void RunReport::open(const RunIdentity& run, const RunFolder* folder) {
  identity_ = run;
  add_sinks(sinks_, config_, run, folder, args_.n_layers > args_.n_dense_layers);
  if (run.rank == 0) log_sinks(config_, run);
}

// Which kernels attention goes through.
std::string RunReport::attention_kernels() const {
  if (!stream_.on_gpu()) return "CPU";
  const bool bf16 = config_.training.mixed_precision_param == DType::bf16;
  const bool documents = args_.block_causal();
  const bool cudnn = !documents && layout_.mesh.size(MeshGroup::cp) == 1;  // has kernels for it
  const int64_t qk = args_.qk_head_dim(), v = args_.v_head_dim;
  if (!bf16 || qk % 8 + v % 8 > 0 || qk > (cudnn ? 256 : 192) || v > (cudnn ? 256 : 128)) {
    log::warning(
        "Attention goes through a plain kernel, which is slow on long sequences: the fast ones "
        "take bfloat16 and heads of multiples of 8 up to 256 (cuDNN, causal masks) or 192/128 "
        "(document masks, context parallelism), and this run has {}, heads of {}/{} and {} masks.",
        word(config_.training.mixed_precision_param), qk, v, documents ? "document" : "causal");
    return "plain";
  }
  if constexpr (kHasCuda) {
    if (qk <= 192 && v <= 128 && config_.device.attention == AttentionChoice::own &&
        cuda::properties(stream_.device().index).major == 9)
      return "own for Hopper, deterministic";
  }
  if (!cudnn) return "own tensor-core kernels";
  return config_.device.unordered_attention ? "cuDNN, unordered" : "cuDNN, deterministic";
}

void RunReport::warn_of_unused_settings(const Engine& engine) const {
  if (!stream_.on_gpu() && config_.optimizer.offload != Offload::none)
    log::warning(
        "Accepted, with nothing here to act on: optimizer.offload = {}; the CPU's memory "
        "is the host's.",
        word(config_.optimizer.offload));
  if (config_.parallelism.expert_overlap && !engine.overlaps_experts())
    log::warning(
        "Accepted, with nothing here to act on: parallelism.expert_overlap; it is for GPUs and the "
        "device dispatcher, and this run's is {}.",
        engine.dispatcher().name());
}

// "[pp 2, dp_shard 4]; schedule 1F1B, 2 stages, 8 microbatches of 1 rows; ...; attention causal
// (CPU); ...; recompute none".
std::string RunReport::layout_text(const Engine& engine, const std::string& library) const {
  const auto& t = config_.training;
  const std::string attention = attention_kernels();
  const Schedule& schedule = layout_.pipeline.schedule;
  std::string text = layout_.mesh.to_string();
  if (schedule.stages() > 1)
    text += fmt::format("; schedule {}, {} stages, {} microbatches of {} rows", schedule.name,
                        schedule.stages(), layout_.microbatches, layout_.microbatch_rows);
  if (!library.empty()) text += "; communication by " + library;
  return text +
         fmt::format(
             "; numerics {}; attention {} ({}); parameters seed {}; routing {}; dispatcher {}; "
             "activations {}; recompute {}",
             word(args_.numerics.family), args_.mask_name(), attention, t.seed.value_or(0),
             routing_name(args_.moe), engine.dispatcher().name(), word(t.mixed_precision_param),
             word(config_.activation_checkpoint.mode));
}

void RunReport::log_memory(const MemoryTable& table, const Connections& taken) const {
  if (table.rows.empty()) return;
  const auto gib = [](int64_t bytes) { return static_cast<double>(bytes) / (1 << 30); };
  const std::string connections =
      taken.groups > 0
          ? fmt::format(" ({:.2f} by groups of ranks, {:.2f} by links of the pipeline)",
                        gib(taken.groups), gib(taken.links))
          : "";
  log::info("Memory before step 1: {:.2f} GiB taken{}, {:.2f} GiB by the table: {}",
            memory_use(stream_).peak_gib, connections, table.total() / (1 << 30), table.line());
}

std::vector<std::pair<const char*, RunEvent::Value>> RunReport::log_model(
    const Engine& engine, const std::string& library, double seconds) const {
  const auto& t = config_.training;
  const ModelSize size = model_size(args_);
  const auto count = [](int64_t n) { return with_thousands(static_cast<double>(n), 0); };
  log::info("Model {} {} size: {} total parameters", config_.model.name, args_.flavor,
            count(size.total()));
  log::info("Total parameter count: dense {}, sparse {}, active {}", count(size.torchtitan_dense()),
            count(size.sparse()), count(size.active));
  log_device(stream_);
  const std::string layout = layout_text(engine, library);
  warn_of_unused_settings(engine);
  log::info(
      "Trainer is initialized with local batch size {}, global batch size {}, gradient "
      "accumulation steps {}, sequence length {}, total steps {} (warmup {})",
      t.local_batch_size, layout_.global_batch, layout_.local_rows / t.local_batch_size, t.seq_len,
      t.steps, config_.lr_scheduler.warmup_steps);
  log::info("Layout: {}; ready in {:.2f} s", layout, seconds);
  return {{"program", std::string("nereus " NEREUS_VERSION ", " NEREUS_COMPILER)},
          {"host", tcp::host_name()},
          {"device", device_text(stream_)},
          {"parameters", count(size.total()) + ", of which a token meets " + count(size.active)},
          {"layout", layout}};
}

// Of one device, as TorchTitan counts them.
double RunReport::tokens_per_device() const {
  return static_cast<double>(layout_.global_batch * config_.training.seq_len) /
         static_cast<double>(layout_.mesh.world());
}

double RunReport::attention_pairs(std::span<const int32_t> ids) const {
  if (!args_.block_causal()) return 0;
  return document_pairs(ids, config_.training.seq_len, static_cast<int32_t>(args_.eos_id));
}

// Without steps in the interval, as where documents count for nothing, a row's causal half.
double RunReport::computed_flops() const {
  const int64_t sequence = config_.training.seq_len;
  if (!args_.block_causal() || interval_.steps == 0)
    return static_cast<double>(flops_per_token(args_, sequence).causal);
  return masked_flops_per_token(
      args_, interval_.attention_pairs /
                 static_cast<double>(interval_.steps * layout_.local_rows * sequence));
}

void RunReport::go_on_from(int64_t step, int64_t tokens) {
  first_step_ = confirmed_ = step;
  first_tokens_ = tokens;
}

void RunReport::begin_interval() { interval_ = Interval(); }

RankFigures RunReport::figures() const {
  const MemoryUse memory = memory_use(stream_);
  return {.data_seconds = interval_.parts.data,
          .memory_gib = memory.peak_gib,
          .memory_percent = memory.peak_percent};
}

void RunReport::step(int64_t step, const StepResult& result, const RankFigures& highest, double lr,
                     int64_t reruns, const ExpertTable* experts,
                     const std::vector<LayerNorm>& norms) {
  const double seconds = std::chrono::duration<double>(Clock::now() - interval_.begin).count();
  const auto steps = static_cast<double>(interval_.steps);
  const auto flops =
      static_cast<double>(flops_per_token(args_, config_.training.seq_len).torchtitan);
  StepMetrics m;
  m.step = step;
  m.loss = static_cast<double>(result.loss);
  m.max_loss = result.max_loss;
  m.grad_norm = static_cast<double>(result.grad_norm);
  m.lr = lr;
  m.memory_gib = highest.memory_gib;
  m.memory_percent = highest.memory_percent;
  m.tokens_per_second = steps * tokens_per_device() / seconds;
  m.tflops = flops * m.tokens_per_second / 1e12;
  const double computed = computed_flops();
  m.tflops_causal = computed * m.tokens_per_second / 1e12;
  if (const std::optional<double> peak = peak_flops(stream_)) {
    m.mfu_percent = 100 * flops * m.tokens_per_second / *peak;
    m.mfu_causal_percent = 100 * computed * m.tokens_per_second / *peak;
  }
  m.step_seconds = seconds / steps;
  m.data_seconds = highest.data_seconds / steps;
  m.tokens_seen =
      first_tokens_ + (step - first_step_) * layout_.global_batch * config_.training.seq_len;
  m.expert_overflows = reruns;
  m.expert_load_max_over_mean = result.max_over_mean;
  if (experts != nullptr) m.experts = expert_figures(*experts);
  m.layer_norms = norms;
  const StepParts& p = interval_.parts;
  m.parts = {.data = p.data / steps,
             .enqueue = p.enqueue / steps,
             .wait = p.wait / steps,
             .save = p.save / steps,
             .validation = p.validation / steps};
  sinks_.step(std::move(m));
  if (experts != nullptr && shows_experts(step)) sinks_.experts(step, *experts);
  ++logged_;
  begin_interval();
}

void RunReport::validation(int64_t step, double loss, const RankFigures& highest, int64_t tokens,
                           double seconds) {
  const double per_device = static_cast<double>(tokens) / static_cast<double>(layout_.mesh.world());
  sinks_.validation({.step = step,
                     .loss = loss,
                     .memory_gib = highest.memory_gib,
                     .memory_percent = highest.memory_percent,
                     .tokens_per_second = per_device / seconds});
  event({.kind = EventKind::validation,
         .step = step,
         .text = fmt::format("loss on held-out rows {:.4f}", loss),
         .facts = {{"loss", loss}, {"seconds", seconds}}});
}

TraceFacts RunReport::trace_facts() const {
  const double step = tokens_per_device();
  const double gemms = step * masked_flops_per_token(args_, 0);
  const std::string device = device_name(stream_);
  return {.device = device,
          .gemm_flops = gemms,
          .attention_flops = step * computed_flops() - gemms,
          .peak_flops = peak_flops(stream_),
          .peak_bandwidth = peak_bandwidth(device),
          .layout = layout_.mesh.to_string()};
}

void RunReport::profile(const std::vector<KernelRun>& runs, const TraceFacts& facts,
                        std::string trace) {
  const KernelProfile profile{.times = add_up(runs),
                              .step_seconds = facts.step_seconds,
                              .flops = facts.gemm_flops + facts.attention_flops,
                              .peak = facts.peak_flops,
                              .trace = std::move(trace)};
  sinks_.profile(profile);
}

void RunReport::log_summary(const Summary& s) const {
  const auto& t = config_.training;
  std::string seen;
  if (s.data.tokens_a_pass > 0)
    seen = fmt::format(" (the text was seen {:.2f} times)",
                       static_cast<double>(s.steps * layout_.global_batch * (t.seq_len + 1)) /
                           static_cast<double>(s.data.tokens_a_pass));
  log::info("Data: {} steps of {} tokens from {}{}", s.steps, layout_.global_batch * t.seq_len,
            t.dataset, seen);
  const int64_t skipped = s.data.skipped_lines();
  if (skipped + s.data.replaced + s.data.broken_shards > 0)
    log::warning(
        "Data: {} lines skipped ({} not JSON, {} without a \"text\"); {} ill-formed parts of text "
        "replaced by U+FFFD; {} broken shards passed over",
        skipped, s.data.not_json, s.data.without_text, s.data.replaced, s.data.broken_shards);
  if (s.validated_step > 0)
    log::info("Loss on held-out rows: {:.4f} before, {:.4f} after {} steps", s.first_validation,
              s.last_validation, s.validated_step);
  if (s.signal == 0) log::info("Training completed");
  if (const std::string file = config_.job.dump_folder + "/metrics.jsonl";
      identity_.rank == 0 && !is_there(file))
    log::warning("{}/metrics.jsonl was removed while the run went on: its lines are lost.",
                 config_.job.dump_folder);
  log::info("Run folder: {} (metrics.jsonl has every logged step)", config_.job.dump_folder);
}

}  // namespace nereus
