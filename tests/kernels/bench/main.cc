// Speed of the CPU kernels on this machine: read bandwidth and VNNI ceilings, nested_gemm in decode and prefill at
// every width and instruction set, attention, logit statistics and sampling. Medians, with the 10th and 90th
// percentile.

#include <CLI/CLI.hpp>
#include <cstdio>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/precision.h"
#include "common/thread_pool.h"
#include "kernels/kernels.h"
#include "kernels/sampling.h"
#include "tests/kernels/bench/measure.h"

namespace flexquant::bench {
namespace {

struct Shape {
  const char* name;
  int64_t rows;
  int64_t cols;
};

constexpr Shape kShapes[] = {{"SmolLM2 qkv", 960, 576},       {"SmolLM2 o", 576, 576},
                             {"SmolLM2 gate_up", 3072, 576},  {"SmolLM2 down", 576, 1536},
                             {"SmolLM2 lm_head", 49152, 576}, {"1B gate_up", 16384, 2048},
                             {"1B down", 2048, 8192},         {"8B down", 4096, 14336}};

struct Options {
  int threads = DefaultNumThreads();
  double seconds = 0.5;
  std::string isa;
  std::string filter;
  size_t working_set_mib = 256;
};

// Random activations of m tokens, of 8 or 15 bits.
class Tokens {
 public:
  Tokens(int64_t m, int activation_bits, const NestedMatrix& w)
      : rows_(activation_bits == 8 ? 1 : 2),
        values_(static_cast<size_t>(m * rows_ * ActivationStride(w.cols))),
        scales_(static_cast<size_t>(m * w.groups()), 0.01F),
        sums_(static_cast<size_t>(m * w.groups()), 17.0F) {
    std::mt19937 random(1);
    for (int8_t& value : values_) {
      value = static_cast<int8_t>(static_cast<int>(random() % 255) - 127);
    }
    view_ = {m, w.cols, w.group_size, rows_, values_.data(), scales_.data(), sums_.data(), m};
  }
  const QuantizedActivations& view() const { return view_; }

 private:
  int64_t rows_;
  std::vector<int8_t> values_;
  std::vector<float> scales_;
  std::vector<float> sums_;
  QuantizedActivations view_;
};

// One pass of m tokens over every matrix of the set. Activations of 15 bits have two rows a token.
Timing TimeGemm(const CpuKernels& kernels, const MatrixSet& set, int bits, int64_t m, int activation_bits,
                ThreadPool& pool, double seconds) {
  const NestedMatrix& shape = set.matrices()[0];
  const Tokens tokens(m, activation_bits, shape);
  std::vector<float> y(static_cast<size_t>(m * shape.rows));
  std::vector<std::vector<uint8_t>> workspaces(static_cast<size_t>(pool.num_threads()),
                                               std::vector<uint8_t>(NestedGemmWorkspaceBytes(shape)));
  const Clock clock = pool.num_threads() == 1 ? Clock::kThread : Clock::kWall;
  const auto pass = [&] {
    for (const NestedMatrix& w : set.matrices()) {
      pool.ParallelFor(w.tiles(), [&](int64_t begin, int64_t end, int thread) {
        kernels.nested_gemm(w, bits, tokens.view(), begin, end, y.data(), w.rows,
                            workspaces[static_cast<size_t>(thread)].data());
      });
    }
  };
  return Measure(seconds, pass, clock);
}

double TotalBytes(const MatrixSet& set, int bits) {
  return static_cast<double>(set.matrices()[0].BytesRead(bits)) * static_cast<double>(set.matrices().size());
}

void BenchDecode(const CpuKernels& kernels, const Shape& shape, const Options& options, ThreadPool& pool,
                 double bandwidth) {
  const MatrixSet set(shape.rows, shape.cols, kDefaultGroupSize, options.working_set_mib << 20);
  const double top = TimeGemm(kernels, set, kTopPrecision, 1, 8, pool, options.seconds).median;
  for (const int64_t m : {1, 4, 8}) {
    for (const int bits : kPrecisions) {
      const Timing timing = TimeGemm(kernels, set, bits, m, 8, pool, options.seconds);
      const double rate = TotalBytes(set, bits) / timing.median;
      std::printf(
          "decode %-16s %-10s m %ld  %d bits  %9.1f us (%.1f-%.1f)  %6.2f GB/s  %3.0f %% of read  %.2f x 8 bits, m 1\n",
          shape.name, std::string(IsaName(kernels.isa)).c_str(), static_cast<long>(m), bits,
          timing.median * 1e6 / static_cast<double>(set.matrices().size()),
          timing.p10 * 1e6 / static_cast<double>(set.matrices().size()),
          timing.p90 * 1e6 / static_cast<double>(set.matrices().size()), rate * 1e-9, 100 * rate / bandwidth,
          timing.median / top);
    }
  }
}

void BenchPrefill(const CpuKernels& kernels, const Shape& shape, const Options& options, double peak) {
  ThreadPool one(1);
  const MatrixSet set(shape.rows, shape.cols, kDefaultGroupSize, 1);
  for (const int64_t m : {16, 64, 512}) {
    for (const auto& [bits, activation_bits] : {std::pair{3, 8}, std::pair{8, 8}, std::pair{8, 15}}) {
      const Timing timing = TimeGemm(kernels, set, bits, m, activation_bits, one, options.seconds);
      const double macs = static_cast<double>((activation_bits == 8 ? m : 2 * m) * shape.rows * shape.cols);
      std::printf("prefill %-16s %-10s m %3ld %d bits, activations %2d  %7.1f GMAC/s (%.1f-%.1f)", shape.name,
                  std::string(IsaName(kernels.isa)).c_str(), static_cast<long>(m), bits, activation_bits,
                  macs / timing.median * 1e-9, macs / timing.p90 * 1e-9, macs / timing.p10 * 1e-9);
      if (peak > 0) {
        std::printf("  %3.0f %% of VNNI peak", 100 * macs / timing.median / peak);
      }
      std::printf("\n");
    }
  }
}

void BenchAttention(const CpuKernels& kernels, const Options& options) {
  const int64_t positions = 2048;
  AttentionShape shape{9, 3, 64, 16, 0, 576, 576, 0.125F, positions / 16};
  std::vector<uint32_t> table;
  for (uint32_t i = 0; i < positions / 16; ++i) {
    table.push_back(i);
  }
  const std::vector<uint16_t> halves(static_cast<size_t>(positions * 3 * 64), 0x3400);
  const auto slab_bytes = static_cast<int64_t>(Kv8SlabBytes(64));
  std::vector<uint8_t> keys(static_cast<size_t>(3 * shape.num_blocks * slab_bytes));
  std::vector<uint8_t> values(keys.size());
  const std::vector<float> kv(3 * 64, 0.25F);
  for (int64_t p = 0; p < positions; ++p) {
    kernels.store_kv_8(kv.data(), kv.data(), 3, 64, keys.data() + p / 16 * slab_bytes,
                       values.data() + p / 16 * slab_bytes, shape.num_blocks * slab_bytes, p % 16);
  }
  const std::vector<float> q(static_cast<size_t>(512 * 576), 0.1F);
  std::vector<float> out(q.size());
  std::vector<uint8_t> workspace(AttentionWorkspaceBytes(shape, positions));
  struct Case {
    int64_t tokens;
    int64_t start;
  };
  for (const Case c : {Case{1, 127}, Case{1, 1023}, Case{1, 2047}, Case{512, 0}, Case{512, 1536}}) {
    const AttentionSequence sequence{q.data(), out.data(), c.tokens, c.start, table.data()};
    const auto report = [&](const char* name, absl::FunctionRef<void()> attend) {
      const Timing timing = Measure(options.seconds, attend, Clock::kThread);
      const double pairs = static_cast<double>(c.tokens) * (static_cast<double>(c.start) + (c.tokens + 1) / 2.0);
      std::printf("attention %s %-10s %3ld tokens at %4ld  %9.1f us (%.1f-%.1f)  %6.1f GMAC/s\n", name,
                  std::string(IsaName(kernels.isa)).c_str(), static_cast<long>(c.tokens), static_cast<long>(c.start),
                  timing.median * 1e6, timing.p10 * 1e6, timing.p90 * 1e6, pairs * 9 * 64 * 2 / timing.median * 1e-9);
    };
    report("fp16  ", [&] { kernels.attention(shape, sequence, halves.data(), halves.data(), 0, 9, workspace.data()); });
    report("8 bits", [&] { kernels.attention_8(shape, sequence, keys.data(), values.data(), 0, 9, workspace.data()); });
  }
}

void BenchSampling(const CpuKernels& kernels, const Options& options) {
  std::mt19937 random(2);
  std::normal_distribution<float> normal(0.0F, 3.0F);
  std::vector<float> original(49152);
  for (float& logit : original) {
    logit = normal(random);
  }
  SamplingConfig greedy;
  SamplingConfig plain;
  plain.temperature = 0.8F;
  SamplingConfig top_k = plain;
  top_k.top_k = 40;
  SamplingConfig nucleus = plain;
  nucleus.top_p = 0.95F;
  SamplingConfig all = nucleus;
  all.top_k = 40;
  all.min_p = 0.05F;
  struct Case {
    const char* name;
    SamplingConfig config;
    uint32_t top;
  };
  for (const Case& c :
       {Case{"greedy", greedy, 0}, Case{"greedy, 20 log-probs", greedy, 20}, Case{"temperature", plain, 0},
        Case{"top-k 40", top_k, 0}, Case{"top-p 0.95", nucleus, 0}, Case{"k, p, min-p", all, 0}}) {
    std::vector<float> logits = original;
    uint64_t draw = 0;
    const Timing timing = Measure(
        options.seconds / 2,
        [&] { SampleToken(kernels, absl::MakeSpan(logits), c.config, TokenCounts(), draw++, c.top); }, Clock::kThread);
    std::printf("sampling 49152   %-10s %-22s %7.1f us (%.1f-%.1f)\n", std::string(IsaName(kernels.isa)).c_str(),
                c.name, timing.median * 1e6, timing.p10 * 1e6, timing.p90 * 1e6);
  }
}

bool Wanted(const Options& options, const std::string& name) { return name.find(options.filter) != std::string::npos; }

void Run(const Options& options) {
  ThreadPool pool(options.threads);
  Pages pages((options.working_set_mib << 20) + 8192);
  for (size_t i = 0; i < pages.size(); i += 4096) {
    pages.data()[i] = 1;
  }
  const double bandwidth = ReadBandwidth(pages, pool, 2 * options.seconds);
  const double peak = VnniPeak(options.seconds);
  std::printf("%s; %d threads; best instruction set %s\n", MachineName().c_str(), options.threads,
              std::string(IsaName(BestIsa())).c_str());
  std::printf("read bandwidth %.2f GB/s; vpdpbusd peak %.1f GMAC/s a thread\n", bandwidth * 1e-9, peak * 1e-9);
  for (const Isa isa : AllIsas()) {
    if (!IsaSupported(isa) || (!options.isa.empty() && IsaName(isa) != options.isa)) {
      continue;
    }
    const CpuKernels& kernels = GetCpuKernels(isa);
    for (const Shape& shape : kShapes) {
      if (Wanted(options, absl::StrCat("decode ", shape.name))) {
        BenchDecode(kernels, shape, options, pool, bandwidth);
      }
      if (Wanted(options, absl::StrCat("prefill ", shape.name))) {
        BenchPrefill(kernels, shape, options, peak);
      }
    }
    if (Wanted(options, "attention")) {
      BenchAttention(kernels, options);
    }
    if (Wanted(options, "sampling")) {
      BenchSampling(kernels, options);
    }
  }
}

}  // namespace
}  // namespace flexquant::bench

int main(int argc, char** argv) {
  CLI::App app("Measures FlexQuant's CPU kernels.");
  flexquant::bench::Options options;
  app.add_option("--threads", options.threads, "Threads of the decode measurements")->check(CLI::Range(1, 1024));
  app.add_option("--seconds", options.seconds, "Time for each measurement")->check(CLI::Range(0.01, 60.0));
  app.add_option("--working-set-mib", options.working_set_mib,
                 "Matrices of a decode measurement together; less than a cache shows the cost without memory")
      ->check(CLI::Range(1, 65536));
  app.add_option("--filter", options.filter, "Only measurements whose name holds this text, for example 'lm_head'");
  app.add_option("--isa", options.isa, "Only this instruction set: portable, avx2, avxvnni, avx512vnni or neon");
  CLI11_PARSE(app, argc, argv);
  flexquant::bench::Run(options);
  return 0;
}
