// Writes inputs to begin fuzzing with, of the real formats: fuzz_make_seeds CORPUS adds to CORPUS/NAME. Run it after a
// change of a format.

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/calibration/calibration_file.h"
#include "common/check.h"
#include "common/mapped_file.h"
#include "common/store/convert.h"
#include "common/store/package_layout.h"
#include "flexquant/v1/inference.pb.h"
#include "nlohmann/json.hpp"
#include "tests/calibration/planted.h"
#include "tests/controller/calibrated_model.h"
#include "tests/formats/test_support.h"
#include "tests/fuzz/scratch_folder.h"
#include "tests/testing/fake_model_source.h"
#include "tests/tokenizer/synthetic_vocabulary.h"

namespace flexquant::fuzz {
namespace {

using Json = nlohmann::ordered_json;

// What ends a section (FuzzInput::Section).
const std::string kEnd = "\xFF";  // NOLINT(runtime/string)

std::string corpus;

void Write(const std::string& target, const std::string& name, const std::string& bytes) {
  std::filesystem::create_directories(corpus + "/" + target);
  FQ_CHECK(WriteFile(absl::StrCat(corpus, "/", target, "/", name), bytes).ok());
}

std::string HeaderOf(const std::string& safetensors) {
  uint64_t size = 0;
  std::memcpy(&size, safetensors.data(), sizeof(size));
  return safetensors.substr(sizeof(size), size);
}

ModelConfig PackageConfig() {
  ModelConfig config = FakeModelSource::TinyConfig();
  config.hidden_size = 32;
  config.intermediate_size = 32;
  config.num_layers = 1;
  config.num_heads = 2;
  config.num_kv_heads = 1;
  config.vocab_size = 16;
  return config;
}

void WritePackage(const std::string& name, const ModelConfig& config, bool reference, bool calibrated) {
  const ScratchFolder scratch;
  const std::string folder = scratch.Path("package");
  FakeModelSource source(config);
  ConvertOptions options;
  options.group_size = 32;
  options.keep_reference = reference;
  FQ_CHECK(Convert(source, folder, options).ok());
  if (calibrated) {
    FQ_CHECK(SaveCalibration(folder, controller::PlantedCalibration(config, PlantedSamples(2, 128))).ok());
  }
  const std::string manifest = Json::parse(*ReadFile(folder + "/" + kManifestFile)).dump();
  const std::string text = Json::parse(*ReadFile(folder + "/" + kConfigFile)).dump();
  const std::string header = HeaderOf(*ReadFile(folder + "/" + kWeightsFile));
  Write("model_store", name, absl::StrCat(std::string(1, '\0'), manifest, kEnd, text, kEnd, header));
}

void WritePackages() {
  ModelConfig config = PackageConfig();
  WritePackage("calibrated", config, false, true);
  config.family = "qwen3";
  config.qk_norm = config.qkv_bias = config.o_bias = config.mlp_bias = true;
  config.tied_head = false;
  WritePackage("qwen3_reference", config, true, false);
}

void WriteGguf() {
  Write("gguf", "byte_level", test::ByteLevelVocabulary().writer.Serialize());
  Write("gguf", "sentence_piece", test::SentencePieceVocabulary().writer.Serialize());
  const ModelConfig config = SmallConfig("qwen2");
  TestGguf file;
  file.AddString("general.architecture", "qwen2");
  const auto number = [&file](const char* key, int64_t value) {
    file.AddUint32(absl::StrCat("qwen2.", key), static_cast<uint32_t>(value));
  };
  number("embedding_length", config.hidden_size);
  number("feed_forward_length", config.intermediate_size);
  number("block_count", config.num_layers);
  number("attention.head_count", config.num_heads);
  number("attention.head_count_kv", config.num_kv_heads);
  number("context_length", config.max_context);
  file.AddFloat("qwen2.attention.layer_norm_rms_epsilon", 1e-5F);
  file.AddFloat("qwen2.rope.freq_base", 5e5F);
  for (const auto& [name, tensor] : SmallTensors(config)) {
    file.tensors.push_back(
        {GgufName(name), {tensor.shape.rbegin(), tensor.shape.rend()}, 0, FloatBytes(tensor.values)});
  }
  Write("gguf", "qwen2", file.Bytes());
}

void WriteHuggingFace() {
  for (const char* family : {"llama", "qwen3"}) {
    const ModelConfig config = SmallConfig(family);
    Json header;
    Json index;
    uint64_t offset = 0;
    for (const auto& [name, tensor] : SmallTensors(config)) {
      const uint64_t end = offset + 2 * tensor.values.size();
      header[name] = {{"dtype", "BF16"}, {"shape", tensor.shape}, {"data_offsets", {offset, end}}};
      index["weight_map"][name] = "a.safetensors";
      offset = end;
    }
    const bool sharded = config.family == "qwen3";
    Write("huggingface", family,
          absl::StrCat(std::string(1, sharded ? '\x06' : '\0'), Json::parse(config.ToJson()).dump(), kEnd,
                       R"({"eos_token_id": [2, 3]})", kEnd, sharded ? index.dump() : "", kEnd, header.dump()));
  }
}

void WriteTokenizers(const std::string& goldens) {
  const std::string json = R"({"version":"1.0","added_tokens":[{"id":5,"content":"<|im_end|>","special":true},)"
                           R"({"id":6,"content":"<t>","special":false,"lstrip":true,"rstrip":true}],"normalizer":)"
                           R"({"type":"NFC"},"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,)"
                           R"("use_regex":true},"post_processor":null,"decoder":{"type":"ByteLevel"},"model":)"
                           R"({"type":"BPE","vocab":{"a":0,"b":1,"ab":2,"c":3,"abc":4},"merges":["a b",["ab","c"]]}})";
  const std::string config = R"({"eos_token":{"content":"<|im_end|>"},"chat_template":"{{ messages }}"})";
  Write("tokenizer", "json",
        absl::StrCat(std::string(1, '\x08'), json, kEnd, config, kEnd, kEnd, "user", kEnd, "abc", kEnd,
                     "abcab <t> e\u0301\u0323<|im_end|>"));
  Write("tokenizer", "byte_level",
        absl::StrCat("\x0d", kEnd, "user", kEnd, "hello world", kEnd, "hello world \n\n aaaa <|im_end|> \xe6\x97\xa5"));
  Write("tokenizer", "sentence_piece",
        absl::StrCat("\x0f", kEnd, "user", kEnd, "the", kEnd, " the  inging \xc3\xa9<s>\xf0\x9f\x98\x80"));
  const auto golden = Json::parse(*ReadFile(goldens));
  for (const auto& [name, entry] : golden["templates"].items()) {
    Write("tokenizer", "template_" + name,
          absl::StrCat("\x21", entry["template"].get<std::string>(), kEnd, "system", kEnd, "hello", kEnd, "the"));
  }
  Write("tokenizer", "template_chatml",
        absl::StrCat("\x21",
                     "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + "
                     "'<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' "
                     "}}{% endif %}",
                     kEnd, "system", kEnd, "hello", kEnd, "the"));
}

void WriteRequests() {
  v1::GenerateRequest request;
  request.set_text("hello world");
  request.set_request_id("id");
  request.set_batch_mode(v1::BATCH_MODE_ISOLATED);
  request.mutable_sampling()->set_temperature(0.5);
  request.mutable_sampling()->set_top_p(0.9);
  request.mutable_sampling()->set_seed(7);
  request.mutable_stop()->set_max_tokens(5);
  request.mutable_stop()->add_stop_strings("bc");
  request.mutable_stop()->add_stop_token_ids(3);
  request.mutable_output()->set_token_info(true);
  request.mutable_output()->set_top_logprobs(2);
  request.mutable_precision()->set_max_mean_kl(0.01);
  auto* resumed = request.mutable_resume()->add_tokens();
  resumed->set_id(97);
  resumed->set_entropy_nats(1);
  request.mutable_resume()->set_kl_factor(1.5);
  Write("request", "everything", "\x02" + request.SerializeAsString());
  request.Clear();
  request.mutable_token_ids()->add_ids(5);
  request.mutable_precision()->mutable_dynamic();
  Write("request", "token_ids", "\x01" + request.SerializeAsString());
  request.mutable_precision()->mutable_layer_group_plan();
  Write("request", "plan", "\x01" + request.SerializeAsString());
  request.mutable_precision()->set_named_plan("uniform-3");
  Write("request", "named_plan", std::string(1, '\0') + request.SerializeAsString());
  request.mutable_precision()->mutable_position();
  Write("request", "position", std::string(1, '\0') + request.SerializeAsString());
  auto* message = request.mutable_chat()->add_messages();
  message->set_role("user");
  message->set_content("hi");
  Write("request", "chat", std::string(1, '\0') + request.SerializeAsString());
  v1::TokenizeRequest tokenize;
  tokenize.set_text("text");
  tokenize.set_add_special(true);
  Write("request", "tokenize", "\x40" + tokenize.SerializeAsString());
  v1::DetokenizeRequest detokenize;
  detokenize.add_token_ids(99);
  Write("request", "detokenize", "\x80" + detokenize.SerializeAsString());
}

void WriteTokenTables() {
  // The SHA-256 of "abc".
  Write(
      "token_table", "two",
      absl::StrCat(R"([{"tenant":"blue","sha256":"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",)",
                   R"("expires":"2030-01-31T12:00:00Z","max_concurrent_requests":8,"max_queued_requests":4,)",
                   R"("max_tokens_per_request":96,"requests_per_minute":3,"tokens_per_minute":200,"priority_max":0},)",
                   R"({"tenant":"red","sha256":"ca7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}])",
                   kEnd, "abc", kEnd, "\x10\x20\x30\x40\x10\x20\x30\x40\x10\x20\x30\x40"));
}

int Run(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s CORPUS GOLDENS; the latter is tests/tokenizer/goldens.json\n", argv[0]);
    return 2;
  }
  corpus = argv[1];
  WritePackages();
  WriteGguf();
  WriteHuggingFace();
  WriteTokenizers(argv[2]);
  WriteRequests();
  WriteTokenTables();
  return 0;
}

}  // namespace
}  // namespace flexquant::fuzz

int main(int argc, char** argv) { return flexquant::fuzz::Run(argc, argv); }
