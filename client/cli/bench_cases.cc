#include "client/cli/bench_cases.h"

#include <future>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "client/cli/interrupt.h"
#include "client/cli/progress.h"
#include "common/precision.h"
#include "common/status_macros.h"

namespace flexquant::cli {
namespace {

using Work = BenchCase::Work;

v1::GenerateRequest MakeRequest(const BenchSizes& sizes, uint32_t vocab_size, const BenchCase& row, uint32_t sequence) {
  v1::GenerateRequest request;
  const bool prefill = row.work == Work::kPrefill;
  const uint32_t prompt_tokens = prefill ? sizes.prefill_tokens : kDecodePromptTokens;
  for (uint32_t i = 0; i < prompt_tokens; ++i) {
    request.mutable_token_ids()->add_ids((7919 * i + 13 + sequence) % vocab_size);
  }
  // A prompt that the server has read before would be found in its cache.
  request.mutable_token_ids()->set_ids(0, static_cast<uint32_t>(absl::ToUnixNanos(absl::Now()) % vocab_size));
  request.mutable_stop()->set_ignore_eos(true);
  // The first token belongs to the prefill.
  request.mutable_stop()->set_max_tokens(prefill ? 1 : sizes.decode_tokens + 1);
  if (row.bits > 0) {
    request.mutable_precision()->set_fixed_bits(static_cast<uint32_t>(row.bits));
  } else {
    request.mutable_precision()->mutable_dynamic();
  }
  return request;
}

absl::StatusOr<v1::GenerationFinished> RunWhole(const client::Client& client, const v1::GenerateRequest& request,
                                                client::CancelToken& cancel) {
  v1::GenerationFinished finished;
  FQ_RETURN_IF_ERROR(client.GenerateStream(request,
                                           [&](const v1::GenerateStreamResponse& event) {
                                             if (event.has_finished()) {
                                               finished = event.finished();
                                             }
                                           },
                                           {.cancel = &cancel}));
  if (finished.usage().generated_tokens() != request.stop().max_tokens()) {
    return absl::FailedPreconditionError(absl::StrCat("the answer has ", finished.usage().generated_tokens(),
                                                      " tokens, not ", request.stop().max_tokens(),
                                                      ": the context of the model is too short; lower --tokens"));
  }
  return finished;
}

// Bits and bytes of an answer's decode steps: all but the first token's, which is the prompt's, at the top precision
// (16 bits: at 16, too, so that all tokens are alike).
void CountDecoded(const v1::GenerationFinished& finished, BenchCase& row) {
  const v1::PrecisionReport& report = finished.precision();
  const double tokens = finished.usage().generated_tokens();
  const double first = row.bits == kReferencePrecision ? 0 : 1;
  const double top_bytes = static_cast<double>(report.weight_bytes_top()) / tokens;
  row.mean_bits = (report.mean_bits() * tokens - first * kTopPrecision) / (tokens - first);
  row.bytes_per_token = (static_cast<double>(report.weight_bytes_read()) - first * top_bytes) / (tokens - first);
}

absl::Status MeasureOurs(const client::Client& client, const BenchSizes& sizes, uint32_t vocab_size, bool keep,
                         BenchCase& row) {
  const uint32_t sequences = row.work == Work::kDecodeTogether ? sizes.sequences : 1;
  std::vector<client::CancelToken> cancels(sequences);
  const Interrupt::Action cancel([&cancels] {
    for (client::CancelToken& one : cancels) {
      one.Cancel();
    }
  });
  std::vector<std::future<absl::StatusOr<v1::GenerationFinished>>> answers;
  for (uint32_t sequence = 0; sequence < sequences; ++sequence) {
    answers.push_back(
        std::async(std::launch::async, [&client, request = MakeRequest(sizes, vocab_size, row, sequence),
                                        &own = cancels[sequence]] { return RunWhole(client, request, own); }));
  }
  absl::Status status;
  double ns = 0;  // summed over the sequences
  v1::GenerationFinished last;
  for (auto& answer : answers) {
    absl::StatusOr<v1::GenerationFinished> finished = answer.get();
    if (!finished.ok()) {
      status.Update(finished.status());
      continue;
    }
    const v1::Usage& usage = finished->usage();
    ns += static_cast<double>(row.work == Work::kPrefill ? usage.time_to_first_token_ns() - usage.queue_time_ns()
                                                         : usage.time_per_output_token_ns());
    last = *std::move(finished);
  }
  FQ_RETURN_IF_ERROR(status);
  if (!keep) {
    return absl::OkStatus();
  }
  const double tokens = row.work == Work::kPrefill ? sizes.prefill_tokens : sequences;
  row.tokens_per_second.push_back(tokens * 1e9 / (ns / sequences));
  if (row.work != Work::kPrefill) {
    CountDecoded(last, row);
  }
  return absl::OkStatus();
}

absl::StatusOr<double> MeasureRival(Rival& rival, const BenchSizes& sizes, Work work) {
  switch (work) {
    case Work::kPrefill:
      return rival.Measure("prefill", sizes.prefill_tokens);
    case Work::kDecodeTogether:
      return rival.Measure(absl::StrCat("decode-", sizes.sequences), sizes.decode_tokens);
    default:
      return rival.Measure("decode", sizes.decode_tokens);
  }
}

}  // namespace

std::vector<BenchCase> MakeBenchCases(const BenchSizes& sizes, const v1::ServerInfo& info, bool rival) {
  std::vector<BenchCase> cases;
  for (const Work work : {Work::kDecode, Work::kDecodeTogether, Work::kPrefill}) {
    if (work == Work::kDecodeTogether && sizes.sequences == 1) {
      continue;
    }
    const auto add = [&](std::string name, bool is_rival, int bits) {
      cases.push_back(
          {.name = std::move(name), .work = work, .rival = is_rival, .bits = bits, .tokens_per_second = {}});
    };
    if (work == Work::kPrefill) {
      add(absl::StrCat(kTopPrecision, " bits"), false, kTopPrecision);
    } else {
      for (const uint32_t bits : info.precisions()) {
        add(absl::StrCat(bits, " bits"), false, static_cast<int>(bits));
      }
      add("dynamic", false, 0);
    }
    if (info.has_reference()) {
      add("16 bits", false, kReferencePrecision);
    }
    if (rival) {
      add("llama.cpp", true, 0);
    }
  }
  return cases;
}

absl::Status MeasureBenchCases(const client::Client& client, const BenchSizes& sizes, uint32_t vocab_size, Rival* rival,
                               MemoryRead* memory, std::vector<BenchCase>& cases, std::vector<double>& read_rates) {
  Progress progress("runs");
  uint64_t done = 0;
  const uint64_t total = cases.size() * (static_cast<uint64_t>(sizes.repetitions) + 1);
  // Rounds over all cases, so that a change of the machine's speed hits them alike; the first round warms up.
  for (int round = 0; round <= sizes.repetitions; ++round) {
    for (BenchCase& row : cases) {
      FQ_RETURN_IF_ERROR(Interrupt::Check());
      progress.Update(done++, total, row.name);
      if (!row.rival) {
        FQ_RETURN_IF_ERROR(MeasureOurs(client, sizes, vocab_size, round > 0, row));
        continue;
      }
      FQ_ASSIGN_OR_RETURN(const double rate, MeasureRival(*rival, sizes, row.work));
      if (round > 0) {
        row.tokens_per_second.push_back(rate);
      }
    }
    if (memory != nullptr) {
      read_rates.push_back(memory->BytesPerSecond());
    }
  }
  return absl::OkStatus();
}

}  // namespace flexquant::cli
