#include "executor/tensor_parallel/tensor_parallel_runner.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/status_macros.h"
#include "xxhash.h"

namespace flexquant::executor {
namespace {

// Ranks that load their weights from a slow disk come one after the other.
constexpr absl::Duration kLoadTimeout = absl::Hours(1);

template <class T>
uint64_t HashOf(absl::Span<const T> values, uint64_t seed) {
  return XXH3_64bits_withSeed(values.data(), values.size() * sizeof(T), seed);
}

}  // namespace

uint64_t StepHash(const StepBatch& batch) {
  uint64_t hash = batch.sequences.size();
  for (const SequenceInput& sequence : batch.sequences) {
    const uint64_t wanted[] = {static_cast<uint64_t>(sequence.start), static_cast<uint64_t>(sequence.num_logits),
                               sequence.sample.has_value() ? 1U + sequence.sample->draw : 0U};
    hash = HashOf(absl::MakeConstSpan(wanted), hash);
    hash = HashOf(sequence.tokens, hash);
    hash = HashOf(absl::MakeConstSpan(sequence.plan->bits), hash);
    hash = HashOf(sequence.block_table, hash);
    hash = HashOf(sequence.score_targets, hash);
  }
  return hash;
}

absl::Status CheckSameStep(RankGroup& group, int rank, uint64_t hash) {
  FQ_ASSIGN_OR_RETURN(const std::vector<uint64_t> hashes, group.AllGather(rank, hash));
  for (size_t other = 1; other < hashes.size(); ++other) {
    if (hashes[other] != hashes[0]) {
      return absl::InternalError(absl::StrFormat(
          "ranks 0 and %d have different steps: their hashes are %016x and %016x", other, hashes[0], hashes[other]));
    }
  }
  return absl::OkStatus();
}

TensorParallelRunner::TensorParallelRunner(const TensorParallelOptions& options)
    : options_(options),
      group_(options.ranks, kLoadTimeout),
      threads_(options.ranks),
      runners_(static_cast<size_t>(options.ranks)),
      outputs_(static_cast<size_t>(options.ranks)) {}

absl::StatusOr<std::unique_ptr<TensorParallelRunner>> TensorParallelRunner::Create(const TensorParallelOptions& options,
                                                                                   MakeRank make_rank) {
  auto all = std::unique_ptr<TensorParallelRunner>(new TensorParallelRunner(options));
  all->threads_.Run([&](int rank) {
    auto runner = make_rank(rank, all->group_);
    if (runner.ok()) {
      all->runners_[static_cast<size_t>(rank)] = *std::move(runner);
    } else {
      all->group_.Abort(rank, runner.status());
    }
  });
  FQ_RETURN_IF_ERROR(all->group_.status());
  all->group_.set_timeout(options.timeout);
  all->info_ = all->runners_[0]->info();
  std::string devices = absl::StrCat("tensor parallel ", options.ranks, ": ", all->info_.device);
  for (size_t rank = 1; rank < all->runners_.size(); ++rank) {
    absl::StrAppend(&devices, "; ", all->runners_[rank]->info().device);
  }
  all->info_.device = std::move(devices);
  return all;
}

absl::Status TensorParallelRunner::RunRank(int rank, const StepBatch& batch, uint64_t hash) {
  if (options_.before_step) {
    FQ_RETURN_IF_ERROR(options_.before_step(rank));
  }
  FQ_RETURN_IF_ERROR(CheckSameStep(group_, rank, hash));
  return runners_[static_cast<size_t>(rank)]->RunStep(batch, &outputs_[static_cast<size_t>(rank)]);
}

absl::Status TensorParallelRunner::RunStep(const StepBatch& batch, StepOutput* output) {
  FQ_RETURN_IF_ERROR(Health());
  FQ_RETURN_IF_ERROR(ValidateBatch(batch, info_));
  threads_.Run([&](int rank) {
    // Each rank its own hash: what it compares is what it sees.
    if (const absl::Status status = RunRank(rank, batch, StepHash(batch)); !status.ok()) {
      group_.Abort(rank, status);
    }
  });
  FQ_RETURN_IF_ERROR(group_.status());
  output->sequences.clear();
  for (size_t s = 0; s < batch.sequences.size(); ++s) {
    output->sequences.push_back(std::move(outputs_[s % static_cast<size_t>(options_.sampling_ranks)].sequences[s]));
  }
  output->weight_bytes_read = 0;
  for (const StepOutput& rank : outputs_) {
    output->weight_bytes_read += rank.weight_bytes_read;
  }
  return absl::OkStatus();
}

absl::Status TensorParallelRunner::Health() const {
  FQ_RETURN_IF_ERROR(group_.status());
  for (const auto& runner : runners_) {
    FQ_RETURN_IF_ERROR(runner->Health());
  }
  return absl::OkStatus();
}

}  // namespace flexquant::executor
