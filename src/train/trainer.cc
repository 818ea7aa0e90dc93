#include "train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>

#include "base/check.h"
#include "base/log.h"
#include "checkpoint/gathered_weights.h"
#include "checkpoint/hf_config.h"
#include "checkpoint/hf_weights.h"
#include "config/load.h"
#include "config/model_flops.h"
#include "engine/memory_table.h"
#include "engine/nonfinite.h"
#include "model/parameters.h"
#include "observe/device_info.h"
#include "ops/elementwise.h"
#include "train/run_data.h"
#include "train/run_folder.h"
#include "train/stop_signal.h"

namespace nereus {
namespace {

constexpr double kGiB = 1 << 30;

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

LrSchedule lr_schedule(const JobConfig& c) {
  return LrSchedule(c.optimizer.lr, c.training.steps, c.lr_scheduler.warmup_steps,
                    c.lr_scheduler.decay_ratio, c.lr_scheduler.decay_type,
                    c.lr_scheduler.min_lr_factor);
}

Optimizer::Options optimizer_options(const JobConfig& c) {
  return {.decoupled = c.optimizer.name == "AdamW",
          .beta1 = c.optimizer.beta1,
          .beta2 = c.optimizer.beta2,
          .eps = c.optimizer.eps,
          .weight_decay = c.optimizer.weight_decay,
          .max_norm = c.training.max_norm};
}

// The busiest expert's tokens over the mean, of the worst layer.
double load_max_over_mean(Stream& stream, const Engine& engine) {
  double worst = 0;
  for (const Engine::LayerLoad& l : engine.expert_load()) {
    std::vector<int64_t> load(static_cast<size_t>(l.load.count()));
    copy_to_host(stream, load.data(), l.load);
    stream.synchronize();
    int64_t sum = 0, most = 0;
    for (const int64_t n : load) {
      sum += n;
      most = std::max(most, n);
    }
    if (sum > 0)
      worst = std::max(worst, static_cast<double>(most) * static_cast<double>(load.size()) /
                                  static_cast<double>(sum));
  }
  return worst;
}

}  // namespace

Trainer::Trainer(const JobConfig& config, Stream& stream, Communicator* world, const Guard& guard)
    : config_(config),
      stream_(stream),
      args_(training_model_args(config)),
      layout_(run_layout(config, args_, world == nullptr ? 1 : world->size())),
      lr_(lr_schedule(config)) {
  if (guard) {
    guard([&] { set_up(world); });
  } else {
    set_up(world);
  }
}

void Trainer::set_up(Communicator* world) {
  const auto& t = config_.training;
  const auto started = Clock::now();
  if (world != nullptr && world->size() > 1)
    world_ = std::make_unique<RankWorld>(layout_.mesh, *world);
  make_folder();
  log::info("Starting job: {}", config_.job.description);
  if (!layout_.warning.empty()) log::warning("{}", layout_.warning);

  RunData data = open_run_data(config_, args_, dp_rank(), dp_size());
  if (args_.block_causal()) {
    NEREUS_CHECK(kConfig, data.eos_id.has_value() || args_.eos_id >= 0,
                 "attn_mask_type is block_causal, and nothing says which token ends a document: "
                 "data set {} has no tokenizer, and no config.json gives eos_token_id. Take the "
                 "model's arguments from a config.json that has one (model.hf_config), or "
                 "--model_overrides.attn_mask_type=causal.",
                 t.dataset);
    if (args_.eos_id < 0) args_.eos_id = *data.eos_id;
  }

  check_memory();
  engine_ = std::make_unique<Engine>(
      args_, stream_,
      Engine::Options{.compute = t.mixed_precision_param == "bfloat16" ? DType::bf16 : DType::f32,
                      .rows = layout_.microbatch_rows,
                      .sequence = t.seq_len,
                      .eos_id = static_cast<int32_t>(args_.eos_id),
                      .recompute = recompute_by_block(config_, args_.n_layers),
                      .moment_type = moment_type(config_),
                      .split_masters = config_.optimizer.master_dtype == "split",
                      .offload = offload(config_, stream_.on_gpu()),
                      .unordered_attention = config_.device.unordered_attention,
                      .reserved_processors = static_cast<int>(config_.device.reserved_processors),
                      .poison_released = config_.device.poison_released,
                      .world = world_.get(),
                      .receive_bound = config_.parallelism.expert_receive_bound,
                      .dispatcher = config_.parallelism.expert_dispatcher,
                      .expert_overlap = config_.parallelism.expert_overlap,
                      .reshard = reshards(config_),
                      .pipeline = &layout_.pipeline});
  optimizer_ = std::make_unique<Optimizer>(stream_, *engine_, optimizer_options(config_));
  flops_per_token_ = static_cast<double>(flops_per_token(args_, t.seq_len).torchtitan);
  engine_->store().initialize(stream_, static_cast<uint64_t>(t.seed.value_or(0)));
  load_weights();

  loader_ = std::move(data.loader);
  if (writes()) open_files();
  say_model(seconds_since(started));
}

Trainer::~Trainer() = default;

// One rank makes it; when it cannot, the others end with its message.
void Trainer::make_folder() {
  if (writes()) folder_ = std::make_unique<RunFolder>(config_);
  if (world_) world_->world().barrier(stream_);
}

void Trainer::open_files() {
  if (config_.job.save_config_file)
    save_config(config_, config_.job.dump_folder + "/" + *config_.job.save_config_file);
  metrics_ = std::make_unique<MetricsFile>(folder_->new_metrics_file());
  const auto& c = config_.checkpoint;
  if (!c.enable || c.load_only) return;
  std::error_code error;
  const auto space = std::filesystem::space(checkpoints_of(config_), error);
  const double need =
      static_cast<double>(model_size(args_).total()) * (c.export_dtype == "float32" ? 4 : 2);
  if (!error && static_cast<double>(space.available) < need)
    log::warning(
        "The last step's weights take {:.2f} GiB, and {} has {:.2f} GiB free: without more room "
        "they will not be saved.",
        need / kGiB, checkpoints_of(config_), static_cast<double>(space.available) / kGiB);
}

// On CPUs one rank stands for those of its process: threads share the machine's memory.
void Trainer::check_memory() {
  const double host = available_host_memory();
  if (stream_.on_gpu()) {
    check_fits(config_, layout_, world_ ? world_->rank() : 0, stream_,
               static_cast<double>(stream_.free_at_start()), host);
  } else if (writes()) {
    const bool threads = world_ && world_->world().shares_memory();
    const int ranks = threads ? world_->world().size() : 1;
    check_fits(config_, layout_, 0, stream_, host / ranks, host);
  }
}

// Which kernels attention goes through.
std::string Trainer::attention_kernels() const {
  if (!stream_.on_gpu()) return "CPU";
  const bool bf16 = config_.training.mixed_precision_param == "bfloat16";
  const bool documents = args_.block_causal();
  const int64_t qk = args_.qk_head_dim(), v = args_.v_head_dim;
  if (!bf16 || qk % 8 + v % 8 > 0 || qk > (documents ? 192 : 256) || v > (documents ? 128 : 256)) {
    log::warning(
        "Attention goes through a plain kernel, which is slow on long sequences: the fast ones "
        "take bfloat16 and heads of multiples of 8 up to 256 (cuDNN, causal masks) or 192/128 "
        "(document masks), and this run has {}, heads of {}/{} and {} masks.",
        config_.training.mixed_precision_param, qk, v, documents ? "document" : "causal");
    return "plain";
  }
  if (documents || layout_.mesh.size(MeshGroup::cp) > 1) return "own tensor-core kernels";
  return config_.device.unordered_attention ? "cuDNN, unordered" : "cuDNN, deterministic";
}

void Trainer::say_model(double seconds) const {
  const auto& t = config_.training;
  const ModelSize size = model_size(args_);
  log::info("Model {} {} size: {} total parameters", config_.model.name, args_.flavor,
            with_thousands(static_cast<double>(size.total()), 0));
  log::info("Total parameter count: dense {}, sparse {}, active {}",
            with_thousands(static_cast<double>(size.torchtitan_dense()), 0),
            with_thousands(static_cast<double>(size.sparse()), 0),
            with_thousands(static_cast<double>(size.active), 0));
  log_device(stream_);
  const std::string attention = attention_kernels();
  if (!stream_.on_gpu() && config_.optimizer.offload != "none")
    log::warning(
        "Accepted, with nothing here to act on: optimizer.offload = {}; the CPU's memory "
        "is the host's.",
        config_.optimizer.offload);
  log::info(
      "Trainer is initialized with local batch size {}, global batch size {}, gradient "
      "accumulation steps {}, sequence length {}, total steps {} (warmup {})",
      t.local_batch_size, layout_.global_batch, layout_.local_rows / t.local_batch_size, t.seq_len,
      t.steps, config_.lr_scheduler.warmup_steps);
  if (config_.parallelism.expert_overlap && !engine_->overlaps_experts())
    log::warning(
        "Accepted, with nothing here to act on: parallelism.expert_overlap; it is for GPUs and the "
        "device dispatcher, and this run's is {}.",
        engine_->dispatcher().name());
  const Schedule& schedule = layout_.pipeline.schedule;
  const std::string pipeline =
      schedule.stages() > 1
          ? fmt::format("; schedule {}, {} stages, {} microbatches of {} rows", schedule.name,
                        schedule.stages(), layout_.microbatches, layout_.microbatch_rows)
          : "";
  const std::string routing = args_.moe.skew_percent > 0
                                  ? fmt::format("forced, {} % of tokens to the first {} experts",
                                                args_.moe.skew_percent, args_.moe.top_k)
                              : args_.moe.force_load_balance ? "forced balance"
                                                             : "learned";
  log::info(
      "Layout: {}{}{}; numerics {}; attention {}; parameters seed {}; routing {}; dispatcher {}; "
      "activations {}; recompute {}; ready in {:.2f} s",
      layout_.mesh.to_string(), pipeline,
      world_ ? "; communication by " + world_->world().library() : "",
      args_.family == NumericsFamily::torchtitan ? "torchtitan" : "huggingface", attention,
      t.seed.value_or(0), routing, engine_->dispatcher().name(), t.mixed_precision_param,
      config_.activation_checkpoint.mode, seconds);
}

void Trainer::load_weights() {
  const std::optional<std::string> path = initial_weights(config_);
  if (!path) return;
  log::info("Loading the checkpoint from {}.", *path);
  const auto begin = Clock::now();
  load_hf_weights(*path, engine_->weights(), stream_.on_gpu() ? &stream_ : nullptr,
                  parameters(args_));
  engine_->store().refresh_copies(stream_);
  log::info("Finished loading the checkpoint in {:.2f} seconds.", seconds_since(begin));
}

// The next batch, cut into the step's microbatches.
void Trainer::load_batch() {
  microbatches_.clear();
  const auto begin = Clock::now();
  const data::Batch& batch = loader_->next();  // sources of training loop: it is full
  interval_.data_seconds += seconds_since(begin);
  const auto tokens = static_cast<size_t>(layout_.microbatch_rows * config_.training.seq_len);
  for (size_t i = 0; i < static_cast<size_t>(layout_.microbatches); ++i)
    microbatches_.push_back({.ids = std::span(batch.inputs).subspan(i * tokens, tokens),
                             .labels = std::span(batch.labels).subspan(i * tokens, tokens)});
}

void Trainer::run_batch(const std::function<void()>& update) {
  const auto counted = static_cast<double>(layout_.global_batch * config_.training.seq_len);
  engine_->executor().run(engine_->actions(), microbatches_, static_cast<float>(1 / counted),
                          optimizer_->loss(), update);
}

void Trainer::enqueue(int64_t step) {
  load_batch();
  optimizer_->gate().tell(StopSignal::received());
  engine_->reset_expert_load();
  run_batch([&] { optimizer_->update(step, lr_.at(step)); });
  enqueued_ = step;
}

void Trainer::confirm(int64_t step) {
  while (confirmed_ < step) {
    const StepGate::Outcome outcome = optimizer_->gate().read();
    signal_ = std::max(signal_, outcome.signal);
    if (!outcome.ok) {
      run_again(confirmed_ + 1, outcome);
      continue;
    }
    ++confirmed_;
    last_ = outcome;
    loader_->confirm();
    tokens_seen_ += layout_.global_batch * config_.training.seq_len;
    ++interval_.steps;
    step_seconds_.push_back(seconds_since(step_begin_));
    step_begin_ = Clock::now();
  }
}

// The step, and those that were enqueued behind it, changed nothing.
void Trainer::run_again(int64_t step, const StepGate::Outcome& outcome) {
  StepGate& gate = optimizer_->gate();
  while (gate.unread() > 0) gate.read();
  loader_->rewind();
  if (outcome.wanted_rows == 0) fail_nonfinite(step, outcome);
  ++overflows_;
  make_room(step, outcome.wanted_rows);
  gate.reopen();
  for (const int64_t last = enqueued_; step <= last; ++step) enqueue(step);
}

// An eighth more than was wanted: the routing of the next steps is much like that of this one.
void Trainer::make_room(int64_t step, int64_t wanted_rows) {
  const int64_t had = engine_->expert_rows(), rows = wanted_rows + (wanted_rows + 7) / 8;
  const auto bound = [&](int64_t n) {
    return static_cast<double>(n) / static_cast<double>(engine_->expert_slots());
  };
  NEREUS_CHECK(kContract, wanted_rows > had, "step {}: experts want {} rows, and have room for {}",
               step, wanted_rows, had);
  try {
    if (stream_.on_gpu()) {
      JobConfig larger = config_;
      larger.parallelism.expert_receive_bound = bound(rows);
      check_fits(larger, layout_, world_ ? world_->rank() : 0, stream_,
                 static_cast<double>(stream_.free_at_start()), available_host_memory());
    }
    engine_->make_room(rows);
  } catch (const Error& e) {
    if (e.fault() != Fault::kConfig) throw;
    NEREUS_FAIL(kConfig,
                "step {}: a rank's experts were sent {} rows of a microbatch and had room for {} "
                "(parallelism.expert_receive_bound {:.3f}). Room for {} ({:.3f}) does not fit:\n{}",
                step, wanted_rows, had, bound(had), rows, bound(rows), e.what());
  }
  log::warning(
      "Step {}: a rank's experts were sent {} rows of a microbatch and had room for {}. It runs "
      "again with room for {}; parallelism.expert_receive_bound was {:.3f} and is {:.3f} from here "
      "on.",
      step, wanted_rows, had, engine_->expert_rows(), bound(had), bound(engine_->expert_rows()));
}

// The batch of the step is the next one, and the weights are those before it.
void Trainer::fail_nonfinite(int64_t step, const StepGate::Outcome& outcome) {
  load_batch();
  run_batch([] {});
  const std::string culprit = first_nonfinite(stream_, *engine_, microbatches_, optimizer_->loss(),
                                              world_ ? &world_->world() : nullptr);
  NEREUS_FAIL(kNumeric,
              "step {}: loss is {}, gradient norm is {}: training cannot go on.\n"
              "  first: {}.\n"
              "  The weights are those after step {}. Look at the data of this step and at "
              "optimizer.lr = {}; a lower rate or a longer lr_scheduler.warmup_steps is the usual "
              "remedy.",
              step, outcome.loss, outcome.grad_norm,
              culprit.empty() ? "every tensor is finite; the norm itself overflowed" : culprit,
              step - 1, config_.optimizer.lr);
}

void Trainer::log_step(int64_t step) {
  const Interval& interval = interval_;
  const double seconds = seconds_since(interval.begin);
  const MemoryUse memory = memory_use(stream_);
  StepMetrics m;
  m.step = step;
  m.loss = static_cast<double>(last_.loss);
  m.grad_norm = static_cast<double>(last_.grad_norm);
  m.lr = lr_.at(step);
  m.memory_gib = memory.peak_gib;
  m.memory_percent = memory.peak_percent;
  const double tokens = static_cast<double>(interval.steps) * tokens_a_step();
  m.tokens_per_second = tokens / seconds;
  m.tflops = flops_per_token_ * m.tokens_per_second / 1e12;
  if (const std::optional<double> peak = peak_flops(stream_))
    m.mfu_percent = 100 * flops_per_token_ * m.tokens_per_second / *peak;
  m.step_seconds = seconds / static_cast<double>(interval.steps);
  m.data_seconds = interval.data_seconds / static_cast<double>(interval.steps);
  m.tokens_seen = tokens_seen_;
  m.expert_overflows = overflows_;
  m.expert_load_max_over_mean = load_max_over_mean(stream_, *engine_);  // of this rank's stages
  log::info("{}", step_line(m, log_in_color(config_)));
  if (metrics_) metrics_->write(m);
  interval_ = Interval();
}

double Trainer::validate(int64_t step) {
  const auto begin = Clock::now();
  const std::vector<data::Batch> batches =
      validation_batches(config_, args_, layout_.microbatch_rows, dp_size());
  int64_t counted = 0;
  for (const data::Batch& b : batches)
    for (const int32_t label : b.labels) counted += label >= 0;
  const auto loss = static_cast<double>(evaluate(batches, step, counted));
  const MemoryUse memory = memory_use(stream_);
  const double a_device = static_cast<double>(counted) / static_cast<double>(layout_.mesh.world());
  log::info("validate step: {:2}  loss: {:7.4f}  memory: {:5.2f}GiB({:.2f}%)  tps: {}", step, loss,
            memory.peak_gib, memory.peak_percent,
            with_thousands(std::nearbyint(a_device / seconds_since(begin)), 0));
  if (metrics_) metrics_->write_validation(step, loss);
  return loss;
}

// All steps are confirmed. Experts may want more room than in training: then all is done again.
float Trainer::evaluate(const std::vector<data::Batch>& batches, int64_t step, int64_t counted) {
  StepGate& gate = optimizer_->gate();
  for (;;) {
    ops::fill(stream_, {.out = gate.loss(), .value = 0});
    // All data-parallel ranks evaluate as many batches: they meet in collectives.
    for (size_t i = static_cast<size_t>(dp_rank()); i < batches.size();
         i += static_cast<size_t>(dp_size()))
      engine_->executor().evaluate({.ids = batches[i].inputs, .labels = batches[i].labels},
                                   static_cast<float>(1 / static_cast<double>(counted)),
                                   gate.loss());
    gate.close(static_cast<float>(config_.training.max_norm));
    const StepGate::Outcome outcome = gate.read();
    gate.reopen();
    if (outcome.wanted_rows == 0) return outcome.loss;
    make_room(step, outcome.wanted_rows);
  }
}

// Of one device, as TorchTitan counts them.
double Trainer::tokens_a_step() const {
  return static_cast<double>(layout_.global_batch * config_.training.seq_len) /
         static_cast<double>(layout_.mesh.world());
}

// A device's error ends the run: it says at which step, and what is left of the run.
void Trainer::guard(int64_t step, const std::function<void()>& work) const {
  try {
    work();
  } catch (const Error& e) {
    if (e.fault() != Fault::kDevice) throw;
    NEREUS_FAIL(kDevice,
                "step {}: {}\n  The device's memory is lost: weights since the last save are gone; "
                "{}/metrics.jsonl has every logged step. Look at nvidia-smi and the kernel's log "
                "(dmesg, Xid) before starting again.",
                step, e.what(), config_.job.dump_folder);
  }
}

// Of the last step: recording slows a step a little. Not of the first ones, which warm up.
bool Trainer::account_for(int64_t step) {
  constexpr int64_t kWarm = 5;
  if (!stream_.on_gpu() || step != config_.training.steps || step <= kWarm) return false;
  recording_ = false;
  while_gpus_rest([&] { recording_ = writes() && recorder_.start(stream_); });
  return true;
}

// What stops all GPUs of this process must not find one that waits for another.
void Trainer::while_gpus_rest(FunctionRef<void()> work) {
  stream_.synchronize();
  if (world_) world_->world().meet_on_host(stream_);
  work();
  if (world_) world_->world().meet_on_host(stream_);
}

void Trainer::say_account(double seconds) {
  std::vector<KernelRun> runs;
  while_gpus_rest([&] {
    if (recording_) runs = recorder_.stop(stream_);
  });
  if (!recording_) return;
  const KernelTimes times = add_up(runs);
  const double flops = tokens_a_step() *
                       static_cast<double>(flops_per_token(args_, config_.training.seq_len).causal);
  log::info("{}", speed_of_light(times, seconds, flops, peak_flops(stream_)));
  std::ofstream(config_.job.dump_folder + "/kernels.csv") << kernel_table(times);
  std::ofstream(config_.job.dump_folder + "/kernels_trace.json") << kernel_trace(runs);
}

int Trainer::run() {
  const auto& t = config_.training;
  const auto& v = config_.validation;
  const StopSignal stop;
  if (v.enable) first_validation_ = last_validation_ = validate(0);
  log::info("Training starts at step 1");
  interval_ = Interval();
  step_begin_ = Clock::now();
  int64_t step = 0;
  if (!world_) signal_ = StopSignal::received();
  while (step < t.steps && signal_ == 0) {
    ++step;
    if (world_) world_->world().set_step(step);
    if (step == t.steps) guard(step, [&] { confirm(step - 1); });  // the last one runs alone
    const bool account = account_for(step);
    const bool logged = step == 1 || step % config_.metrics.log_freq == 0;
    const bool validated = v.enable && (step % v.freq == 0 || step == t.steps);
    const auto begin = Clock::now();
    // The host is a step ahead of what it knows, except where something is asked of this very step.
    guard(step, [&] {
      enqueue(step);
      confirm(logged || validated || step == t.steps ? step : step - 1);
    });
    if (account) {
      stream_.synchronize();  // with the update, which the outcome does not wait for
      say_account(seconds_since(begin));
    }
    if (logged) log_step(step);
    if (validated) last_validation_ = validate(step);
    if (step == 1 && world_)
      world_->world().set_timeout(std::chrono::seconds(config_.comm.train_timeout_seconds));
    if (!world_) signal_ = StopSignal::received();
  }
  guard(step, [&] { confirm(step); });
  if (signal_ != 0)
    log::warning("{} received: stopped after step {} of {}", StopSignal::name(signal_), step,
                 t.steps);
  save_last(step);
  say_goodbye(step, signal_);
  return signal_ == 0 ? 0 : 128 + signal_;
}

void Trainer::save_last(int64_t step) {
  const auto& c = config_.checkpoint;
  if (!c.enable || c.load_only || step == 0) return;
  const std::string folder = checkpoint_folder(config_, step);
  log::info("Saving a model only checkpoint in {} at last step, step {}.", c.export_dtype, step);
  const auto begin = Clock::now();
  const DType dtype = c.export_dtype == "bfloat16"  ? DType::bf16
                      : c.export_dtype == "float16" ? DType::f16
                                                    : DType::f32;
  save_weights(folder, dtype);
  log::info("Finished saving the checkpoint in {:.2f} seconds: {}", seconds_since(begin), folder);
}

void Trainer::save_weights(const std::string& folder, DType dtype) {
  const std::string model = hf_config_json(args_, dtype);
  engine_->store().assemble_masters(stream_);
  if (!world_) {
    save_hf_weights(folder, engine_->weights(), model, dtype, kShardBytes,
                    stream_.on_gpu() ? &stream_ : nullptr);
    return;
  }
  std::vector<GatheredWeights::Whole> all;
  for (const Parameter& p : parameters(args_)) all.push_back({p.name, p.shape});
  for (int64_t layer = 0; layer < args_.n_layers; ++layer)
    if (args_.is_moe_layer(layer) && has_expert_bias(args_))
      all.push_back({expert_bias_name(layer), {args_.moe.num_experts}});
  GatheredWeights gathered(stream_, world_->world(), all, engine_->weights());
  if (!writes()) {
    for (size_t i = 0; i < all.size(); ++i) gathered.fetch(i);
  } else {
    std::vector<NamedView> views;
    for (const GatheredWeights::Whole& w : all)
      views.push_back({.name = w.name, .view = TensorView(nullptr, DType::f32, w.shape)});
    save_hf_weights(folder, views, model, dtype, kShardBytes, nullptr,
                    [&](size_t i) { return gathered.fetch(i); });
  }
  world_->world().barrier(stream_);  // saved, or the writer's error
}

void Trainer::say_goodbye(int64_t step, int signal) const {
  const data::SourceStatus data = loader_->status();
  std::string seen;
  if (data.tokens_a_pass > 0)
    seen = fmt::format(
        " (the text was seen {:.2f} times)",
        static_cast<double>(step * layout_.local_rows * (config_.training.seq_len + 1)) /
            static_cast<double>(data.tokens_a_pass));
  log::info("Data: {} steps of {} tokens from {}{}", step,
            layout_.global_batch * config_.training.seq_len, config_.training.dataset, seen);
  if (data.skipped_lines + data.replaced > 0)
    log::warning("Data: {} broken lines skipped, {} ill-formed UTF-8 parts replaced by U+FFFD",
                 data.skipped_lines, data.replaced);
  if (config_.validation.enable && step > 0)
    log::info("Loss on held-out rows: {:.4f} before, {:.4f} after {} steps", first_validation_,
              last_validation_, step);
  if (signal == 0) log::info("Training completed");
  if (metrics_ && !std::filesystem::exists(config_.job.dump_folder + "/metrics.jsonl"))
    log::warning("{}/metrics.jsonl was removed while the run went on: its lines are lost.",
                 config_.job.dump_folder);
  log::info("Run folder: {} (metrics.jsonl has every logged step)", config_.job.dump_folder);
}

}  // namespace nereus
