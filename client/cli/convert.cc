#include "common/store/convert.h"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "client/cli/commands.h"
#include "client/cli/connection.h"
#include "client/cli/convert_fitted.h"
#include "client/cli/interrupt.h"
#include "client/cli/progress.h"
#include "client/cli/terminal.h"
#include "common/model_source.h"
#include "common/precision.h"
#include "common/status_macros.h"

namespace flexquant::cli {
namespace {

struct Flags {
  std::string source;
  std::string destination;
  std::string tokenizer;
  ConvertOptions options;
  FitFlags fit;
  std::string log_level = "error";
};

void PrintReport(const Flags& flags, const ConvertReport& report) {
  std::fprintf(stderr, "%s: %s, %.2f stored bits a weight for all precisions\n", flags.destination.c_str(),
               HumanBytes(static_cast<double>(report.file_bytes)).c_str(), report.stored_bits_per_weight);
  std::fputs("relative error", stderr);
  for (size_t i = 0; i < std::min(report.relative_error.size(), kPrecisions.size()); ++i) {
    std::fprintf(stderr, "%s %.4f at %d bits", i == 0 ? "" : ",", report.relative_error[i], kPrecisions[i]);
  }
  std::fputs("\n", stderr);
}

absl::Status RunConvert(Flags flags) {
  ConfigureLog(flags.log_level);
  FQ_ASSIGN_OR_RETURN(const auto source, OpenModelSource(flags.source, flags.tokenizer));
  std::fprintf(stderr, "%s: %s\n", flags.source.c_str(), source->Description().c_str());
  flags.options.source_path = flags.source;
  flags.options.cancelled = [] { return Interrupt::Requested(); };
  absl::StatusOr<ConvertReport> report;
  {
    std::optional<Progress> progress;  // begins when there is something to show: its rate counts from then
    flags.options.progress = [&progress](uint64_t done, uint64_t total, const std::string& tensor) {
      if (!progress.has_value()) {
        progress.emplace("B");
      }
      progress->Update(done, total, tensor);
    };
    report = flags.fit.text.empty() ? Convert(*source, flags.destination, flags.options)
                                    : ConvertFitted(*source, flags.destination, flags.options, flags.fit);
  }
  FQ_RETURN_IF_ERROR(report.status());
  PrintReport(flags, *report);
  return absl::OkStatus();
}

}  // namespace

void AddConvert(CLI::App& app, RunCommand& run) {
  auto flags = std::make_shared<Flags>();
  flags->options.num_threads = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  auto* command = app.add_subcommand("convert", "Convert a model to a package that serves 3, 4, 5, 6 and 8 bits");
  command->add_option("SOURCE", flags->source, "GGUF file, Hugging Face folder, or llama2.c checkpoint (*.bin)")
      ->required();
  command->add_option("DEST", flags->destination, "Folder to make")->required();
  command->add_option("--group-size", flags->options.group_size, "Weights that share a scale: 32, 64 or 128")
      ->check(CLI::IsMember({32, 64, 128}))
      ->capture_default_str();
  command->add_flag("--keep-reference", flags->options.keep_reference,
                    "Also store the source's weights unquantised: --precision 16, for evaluation");
  command
      ->add_option("--fine-activations-from", flags->options.fine_activations_from,
                   "Precision from which on activations have 15 bits, not 8: 6 or 8. With 8, 6 bits compute half as "
                   "much, which makes batches faster, and lose a little more")
      ->check(CLI::IsMember(kFineActivationsFrom))
      ->capture_default_str();
  auto* calibrate = command->add_option(
      "--calibrate", flags->fit.text, "File of UTF-8 text like that which the model will read: fits the weights to it");
  command->add_option("--calibrate-tokens", flags->fit.tokens, "Tokens that are read of it")
      ->check(CLI::Range(1, 1 << 30))
      ->needs(calibrate)
      ->capture_default_str();
  command->add_option("--tokenizer", flags->tokenizer,
                      "Vocabulary of a llama2.c checkpoint; default: tok*.bin beside it");
  command->add_option("--name", flags->options.model_name, "Model name; default: the source's, else the folder's");
  command->add_flag("--force", flags->options.overwrite, "Replace DEST if it is a FlexQuant package or empty");
  command->add_option("--threads", flags->options.num_threads, "Threads that quantise")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command->callback([flags, &run] { run = [flags] { return RunConvert(*flags); }; });
}

}  // namespace flexquant::cli
