#include "parallel/parameter_store.h"

namespace nereus {
ParameterStore::ParameterStore(Device device, std::vector<StoredTensor> tensors,
                               const RankWorld* world, const Options& o)
    : alone_(world == nullptr ? std::make_unique<RankWorld>() : nullptr),
      world_(world == nullptr ? *alone_ : *world),
      layout_(std::move(tensors), shard_counts(world_.mesh()), o.compute),
      states_(device, layout_, shard_index(world_.mesh(), world_.rank()),
              {.compute = o.compute,
               .gradients = o.gradients,
               .moments = o.moments,
               .moment_type = o.moment_type,
               .split_masters = o.split_masters,
               .offload = o.offload,
               .offload_chunk = o.offload_chunk,
               .in_place = in_place(
                   layout_, o.compute != DType::f32 && o.offload == Offload::none && !o.reshard,
                   o.gradients && !o.reduce_each_microbatch)}),
      gathered_(device, layout_, states_, world_,
                {.gradients = o.gradients,
                 .reshard = o.reshard,
                 .reduce_each_microbatch = o.reduce_each_microbatch,
                 .exchange = o.exchange}) {}

TensorView ParameterStore::counted_gradients() const {
  const FlatRange mine = layout_.counted(world_.first_of_tp());
  return gradients().rows(mine.begin, mine.end);
}

TensorView ParameterStore::master(TensorHandle t) const {
  if (t < 0) return {};
  const auto i = static_cast<size_t>(t);
  const int shard = shard_index(world_.mesh(), world_.rank()).of(layout_.tensors()[i]);
  return states_.master(i).rows(0, layout_.rows(i).rows(shard).count());
}

void ParameterStore::gather(Stream& stream) {
  for (const int bucket : layout_.buckets()) gather(stream, bucket);
}
void ParameterStore::reduce(Stream& stream) {
  for (const int bucket : layout_.buckets()) reduce(stream, bucket);
  finish(stream);
}

ParameterStore::Bytes ParameterStore::bytes() const {
  const ParameterStates::Bytes b = states_.bytes();
  return {.masters = b.masters,
          .gradients = b.gradients + gathered_.gradient_bytes(),
          .moments = b.moments,
          .copies = b.copies,
          .gathered = gathered_.weight_bytes(),
          .remainders = b.remainders,
          .chunks = b.chunks,
          .host_masters = b.host_masters,
          .host_remainders = b.host_remainders,
          .host_moments = b.host_moments};
}

}  // namespace nereus
