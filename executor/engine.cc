#include "executor/engine.h"

#include <random>

#include "absl/strings/str_format.h"

namespace flexquant::executor {
namespace {

std::string RandomId() {
  std::random_device device;
  std::string id;
  for (int i = 0; i < 4; ++i) {
    id += absl::StrFormat("%08x", device());
  }
  return id;
}

}  // namespace

Engine::Engine(ModelRunner& runner) : runner_(runner), instance_id_(RandomId()) {}

absl::Status Engine::RunStep(const StepBatch& batch, absl::FunctionRef<void()> started,
                             absl::FunctionRef<void(const StepOutput&)> consume) {
  // Tickets, because a plain mutex would let a busy stream starve the others.
  {
    std::unique_lock lock(mutex_);
    const uint64_t ticket = next_ticket_++;
    turn_.wait(lock, [&] { return now_serving_ == ticket; });
  }
  started();
  running_since_.store(absl::GetCurrentTimeNanos());
  const absl::Status status = runner_.RunStep(batch, &output_);
  running_since_.store(kIdle);
  if (status.ok()) {
    consume(output_);
    steps_done_.fetch_add(1);
  }
  {
    const std::lock_guard lock(mutex_);
    ++now_serving_;
  }
  turn_.notify_all();
  return status;
}

}  // namespace flexquant::executor
