#include "controller/request_validation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "tests/controller/status_test_util.h"
#include "tests/controller/test_model.h"

namespace flexquant::controller {
namespace {

using ::testing::HasSubstr;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

v1::GenerateRequest TextRequest(const std::string& text = "hello") {
  v1::GenerateRequest request;
  request.set_text(text);
  return request;
}

TEST(ValidateGenerateTest, FillsInEveryDefault) {
  const ModelPackage model = TestModel();
  const auto validated = ValidateGenerate(TextRequest(), model, 0);
  ASSERT_TRUE(validated.ok()) << validated.status();
  const GenerationSpec& spec = *validated->spec;
  EXPECT_EQ(spec.prompt, (std::vector<uint32_t>{kBos, 'h', 'e', 'l', 'l', 'o'}));
  EXPECT_EQ(spec.request_id.size(), 32U);
  EXPECT_EQ(spec.eos_token_ids.front(), kEos);
  EXPECT_FALSE(spec.isolated);
  EXPECT_FALSE(validated->token_info);
  const v1::EffectiveParams& effective = validated->effective;
  EXPECT_TRUE(effective.sampling().has_temperature() && effective.sampling().has_top_k() &&
              effective.sampling().has_top_p() && effective.sampling().has_min_p() &&
              effective.sampling().has_repetition_penalty() && effective.sampling().has_presence_penalty() &&
              effective.sampling().has_frequency_penalty() && effective.sampling().has_seed());
  EXPECT_EQ(effective.sampling().temperature(), 0);
  EXPECT_EQ(effective.sampling().top_p(), 1);
  EXPECT_EQ(effective.sampling().repetition_penalty(), 1);
  EXPECT_EQ(effective.sampling().seed(), spec.sampling.seed);
  EXPECT_EQ(effective.batch_mode(), v1::BATCH_MODE_SHARED);
  EXPECT_TRUE(effective.precision().has_dynamic());
  // 256 by default, but the context of 128 has 6 prompt tokens in it.
  EXPECT_EQ(effective.stop().max_tokens(), 122U);
  EXPECT_EQ(spec.max_tokens, 122U);
  EXPECT_TRUE(spec.limited_by_context);
}

TEST(ValidateGenerateTest, ServerChoosesDifferentSeedsAndIds) {
  const ModelPackage model = TestModel();
  const auto first = ValidateGenerate(TextRequest(), model, 0);
  const auto second = ValidateGenerate(TextRequest(), model, 0);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_NE(first->spec->sampling.seed, second->spec->sampling.seed);
  EXPECT_NE(first->spec->request_id, second->spec->request_id);
}

TEST(ValidateGenerateTest, KeepsWhatIsSaid) {
  const ModelPackage model = TestModel();
  v1::GenerateRequest request = TextRequest();
  request.set_model(std::string("tiny"));
  request.set_request_id(std::string("my id"));
  request.set_batch_mode(v1::BATCH_MODE_ISOLATED);
  v1::SamplingParams& sampling = *request.mutable_sampling();
  sampling.set_temperature(100);
  sampling.set_top_k(40);
  sampling.set_top_p(0.5);
  sampling.set_min_p(1);
  sampling.set_repetition_penalty(10);
  sampling.set_presence_penalty(-10);
  sampling.set_frequency_penalty(10);
  sampling.set_seed(0);
  request.mutable_stop()->set_max_tokens(5);
  request.mutable_stop()->set_ignore_eos(true);
  request.mutable_stop()->add_stop_strings(std::string("END"));
  request.mutable_stop()->add_stop_token_ids(3);
  request.mutable_output()->set_token_info(true);
  request.mutable_output()->set_top_logprobs(20);
  const auto validated = ValidateGenerate(request, model, 0);
  ASSERT_TRUE(validated.ok()) << validated.status();
  EXPECT_EQ(validated->effective.sampling().SerializeAsString(), sampling.SerializeAsString());
  EXPECT_EQ(validated->effective.stop().SerializeAsString(), request.stop().SerializeAsString());
  const GenerationSpec& spec = *validated->spec;
  EXPECT_EQ(spec.request_id, "my id");
  EXPECT_TRUE(spec.isolated);
  EXPECT_TRUE(spec.eos_token_ids.empty());
  EXPECT_EQ(spec.stop_token_ids, std::vector<uint32_t>{3});
  EXPECT_EQ(spec.top_logprobs, 20U);
  EXPECT_FALSE(spec.limited_by_context);
  EXPECT_TRUE(validated->token_info);
}

TEST(ValidateGenerateTest, UnknownModelIsNotFound) {
  const ModelPackage model = TestModel();
  v1::GenerateRequest request = TextRequest();
  request.set_model(std::string("huge"));
  const absl::Status status = ValidateGenerate(request, model, 0).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ReasonOf(status), "MODEL_NOT_FOUND");
  EXPECT_THAT(std::string(status.message()), HasSubstr("tiny"));
}

TEST(ValidateGenerateTest, UnknownPlanIsNotFound) {
  const ModelPackage model = TestModel();
  v1::GenerateRequest request = TextRequest();
  request.mutable_precision()->set_named_plan(std::string("best"));
  EXPECT_EQ(ReasonOf(ValidateGenerate(request, model, 0).status()), "PLAN_NOT_FOUND");
}

TEST(ValidateGenerateTest, EmptyTextNeedsABeginOfSequence) {
  const ModelPackage with_bos = TestModel();
  EXPECT_TRUE(ValidateGenerate(TextRequest(""), with_bos, 0).ok());
  const ModelPackage without_bos = TestModel(false, false);
  EXPECT_EQ(ViolatedField(ValidateGenerate(TextRequest(""), without_bos, 0).status()), "text");
}

TEST(ValidateGenerateTest, PromptMayFillTheContextButForOneToken) {
  const ModelPackage model = TestModel();
  const auto longest = ValidateGenerate(TextRequest(std::string(126, 'a')), model, 0);
  ASSERT_TRUE(longest.ok()) << longest.status();
  EXPECT_EQ(longest->spec->max_tokens, 1U);
  const absl::Status status = ValidateGenerate(TextRequest(std::string(127, 'a')), model, 0).status();
  EXPECT_EQ(ViolatedField(status), "prompt");
  EXPECT_THAT(std::string(status.message()), HasSubstr("128 tokens; at most 127 fit"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("shorten the prompt"));
}

TEST(ValidateGenerateTest, AMuchTooLongTextIsRefusedBeforeItIsTokenized) {
  const ModelPackage model = TestModel();
  const absl::Status status = ValidateGenerate(TextRequest(std::string(1 << 20, 'a')), model, 0).status();
  EXPECT_EQ(ViolatedField(status), "text");
  EXPECT_THAT(std::string(status.message()), HasSubstr("context is 128"));
}

TEST(ValidateGenerateTest, ASmallKvCacheIsTheLimit) {
  const ModelPackage model = TestModel();
  const auto fits = ValidateGenerate(TextRequest("abc"), model, 16);
  ASSERT_TRUE(fits.ok());
  EXPECT_EQ(fits->spec->max_tokens, 12U);
  const absl::Status status = ValidateGenerate(TextRequest(std::string(20, 'a')), model, 16).status();
  EXPECT_EQ(ViolatedField(status), "prompt");
  EXPECT_THAT(std::string(status.message()), HasSubstr("KV cache"));
}

TEST(ValidateGenerateTest, ChatWithoutATemplateNamesTheRemedy) {
  const ModelPackage model = TestModel();
  v1::GenerateRequest request;
  auto* message = request.mutable_chat()->add_messages();
  message->set_role(std::string("user"));
  message->set_content(std::string("hi"));
  const absl::Status status = ValidateGenerate(request, model, 0).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(ReasonOf(status), "NO_CHAT_TEMPLATE");
}

struct BadRequestCase {
  std::string name;
  std::function<void(v1::GenerateRequest&)> spoil;
  std::string field;
};

class BadGenerateRequestTest : public ::testing::TestWithParam<BadRequestCase> {};

TEST_P(BadGenerateRequestTest, NamesTheField) {
  const ModelPackage model = TestModel();
  v1::GenerateRequest request = TextRequest();
  GetParam().spoil(request);
  const absl::Status status = ValidateGenerate(request, model, 0).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_EQ(ViolatedField(status), GetParam().field) << status;
}

using R = v1::GenerateRequest;
INSTANTIATE_TEST_SUITE_P(
    All, BadGenerateRequestTest,
    ::testing::Values(
        BadRequestCase{"NoPrompt", [](R& r) { r.clear_prompt(); }, "prompt"},
        BadRequestCase{"BadUtf8", [](R& r) { r.set_text(std::string("a\xFF")); }, "text"},
        BadRequestCase{"NoTokens", [](R& r) { r.mutable_token_ids(); }, "token_ids.ids"},
        BadRequestCase{"TokenOutOfRange",
                       [](R& r) { r.mutable_token_ids()->add_ids(1), r.mutable_token_ids()->add_ids(kTestVocab); },
                       "token_ids.ids[1]"},
        BadRequestCase{"ManyTokens",
                       [](R& r) {
                         for (int i = 0; i < 129; ++i) {
                           r.mutable_token_ids()->add_ids(kTestVocab);
                         }
                       },
                       "token_ids.ids"},
        BadRequestCase{"ManyMessages",
                       [](R& r) {
                         for (int i = 0; i < 4097; ++i) {
                           r.mutable_chat()->add_messages();
                         }
                       },
                       "chat.messages"},
        BadRequestCase{"NoMessages", [](R& r) { r.mutable_chat(); }, "chat.messages"},
        BadRequestCase{"BadRole", [](R& r) { r.mutable_chat()->add_messages()->set_role(std::string("tool")); },
                       "chat.messages[0].role"},
        BadRequestCase{"BadContent",
                       [](R& r) {
                         auto* message = r.mutable_chat()->add_messages();
                         message->set_role(std::string("user"));
                         message->set_content(std::string("\xC3"));
                       },
                       "chat.messages[0].content"},
        BadRequestCase{"TemperatureNegative", [](R& r) { r.mutable_sampling()->set_temperature(-0.1); },
                       "sampling.temperature"},
        BadRequestCase{"TemperatureHigh", [](R& r) { r.mutable_sampling()->set_temperature(100.5); },
                       "sampling.temperature"},
        BadRequestCase{"TemperatureNan", [](R& r) { r.mutable_sampling()->set_temperature(kNan); },
                       "sampling.temperature"},
        BadRequestCase{"TemperatureInfinite", [](R& r) { r.mutable_sampling()->set_temperature(kInfinity); },
                       "sampling.temperature"},
        BadRequestCase{"TopPZero", [](R& r) { r.mutable_sampling()->set_top_p(0); }, "sampling.top_p"},
        BadRequestCase{"TopPHigh", [](R& r) { r.mutable_sampling()->set_top_p(1.5); }, "sampling.top_p"},
        BadRequestCase{"TopPNan", [](R& r) { r.mutable_sampling()->set_top_p(kNan); }, "sampling.top_p"},
        BadRequestCase{"MinPNegative", [](R& r) { r.mutable_sampling()->set_min_p(-1); }, "sampling.min_p"},
        BadRequestCase{"MinPHigh", [](R& r) { r.mutable_sampling()->set_min_p(1.1); }, "sampling.min_p"},
        BadRequestCase{"MinPNan", [](R& r) { r.mutable_sampling()->set_min_p(kNan); }, "sampling.min_p"},
        BadRequestCase{"RepetitionZero", [](R& r) { r.mutable_sampling()->set_repetition_penalty(0); },
                       "sampling.repetition_penalty"},
        BadRequestCase{"RepetitionHigh", [](R& r) { r.mutable_sampling()->set_repetition_penalty(11); },
                       "sampling.repetition_penalty"},
        BadRequestCase{"RepetitionNan", [](R& r) { r.mutable_sampling()->set_repetition_penalty(kNan); },
                       "sampling.repetition_penalty"},
        BadRequestCase{"PresenceLow", [](R& r) { r.mutable_sampling()->set_presence_penalty(-10.1); },
                       "sampling.presence_penalty"},
        BadRequestCase{"PresenceNan", [](R& r) { r.mutable_sampling()->set_presence_penalty(kNan); },
                       "sampling.presence_penalty"},
        BadRequestCase{"FrequencyHigh", [](R& r) { r.mutable_sampling()->set_frequency_penalty(10.1); },
                       "sampling.frequency_penalty"},
        BadRequestCase{"FrequencyInfinite", [](R& r) { r.mutable_sampling()->set_frequency_penalty(-kInfinity); },
                       "sampling.frequency_penalty"},
        BadRequestCase{"NoMaxTokens", [](R& r) { r.mutable_stop()->set_max_tokens(0); }, "stop.max_tokens"},
        BadRequestCase{"ManyStopStrings",
                       [](R& r) {
                         for (int i = 0; i < 17; ++i) {
                           r.mutable_stop()->add_stop_strings(std::string("x"));
                         }
                       },
                       "stop.stop_strings"},
        BadRequestCase{"EmptyStopString", [](R& r) { r.mutable_stop()->add_stop_strings(std::string("")); },
                       "stop.stop_strings[0]"},
        BadRequestCase{"LongStopString",
                       [](R& r) {
                         r.mutable_stop()->add_stop_strings(std::string("ok"));
                         r.mutable_stop()->add_stop_strings(std::string(257, 'x'));
                       },
                       "stop.stop_strings[1]"},
        BadRequestCase{"BrokenStopString", [](R& r) { r.mutable_stop()->add_stop_strings(std::string("\xE2\x82")); },
                       "stop.stop_strings[0]"},
        BadRequestCase{"ManyStopIds",
                       [](R& r) {
                         for (uint32_t i = 0; i < 65; ++i) {
                           r.mutable_stop()->add_stop_token_ids(i);
                         }
                       },
                       "stop.stop_token_ids"},
        BadRequestCase{"BadStopId", [](R& r) { r.mutable_stop()->add_stop_token_ids(kTestVocab); },
                       "stop.stop_token_ids[0]"},
        BadRequestCase{"ManyLogprobs",
                       [](R& r) {
                         r.mutable_output()->set_token_info(true);
                         r.mutable_output()->set_top_logprobs(21);
                       },
                       "output.top_logprobs"},
        BadRequestCase{"LogprobsAlone", [](R& r) { r.mutable_output()->set_top_logprobs(1); }, "output.top_logprobs"},
        BadRequestCase{"LongId", [](R& r) { r.set_request_id(std::string(129, 'a')); }, "request_id"},
        BadRequestCase{"ControlInId", [](R& r) { r.set_request_id(std::string("a\nb")); }, "request_id"},
        BadRequestCase{"NonAsciiId", [](R& r) { r.set_request_id(std::string("\xC3\xA9")); }, "request_id"},
        BadRequestCase{"BatchMode", [](R& r) { r.set_batch_mode(static_cast<v1::BatchMode>(9)); }, "batch_mode"},
        BadRequestCase{"Precision", [](R& r) { r.mutable_precision()->set_fixed_bits(2); }, "precision.fixed_bits"}),
    [](const auto& param_info) { return param_info.param.name; });

TEST(ValidateGenerateTest, SignalsOfResumedTokensAreNumbers) {
  v1::GenerateRequest request = TextRequest();
  request.mutable_sampling()->set_seed(1);
  request.mutable_resume()->add_tokens();
  EXPECT_TRUE(ValidateGenerate(request, TestModel(), 0).ok());
  request.mutable_resume()->add_tokens()->set_margin(kNan);
  EXPECT_EQ(ViolatedField(ValidateGenerate(request, TestModel(), 0).status()), "resume.tokens[1]");
}

TEST(TokenizeTest, TextWithAndWithoutBeginOfSequence) {
  const ModelPackage model = TestModel();
  v1::TokenizeRequest request;
  request.set_text(std::string("ab"));
  EXPECT_EQ(*Tokenize(request, model), (std::vector<uint32_t>{'a', 'b'}));
  request.set_add_special(true);
  EXPECT_EQ(*Tokenize(request, model), (std::vector<uint32_t>{kBos, 'a', 'b'}));
}

TEST(TokenizeTest, BadInput) {
  const ModelPackage model = TestModel();
  v1::TokenizeRequest request;
  EXPECT_EQ(ViolatedField(Tokenize(request, model).status()), "input");
  request.set_text(std::string("\xFF"));
  EXPECT_EQ(ViolatedField(Tokenize(request, model).status()), "text");
  request.mutable_chat()->add_messages()->set_role(std::string("user"));
  request.set_add_special(true);
  EXPECT_EQ(ViolatedField(Tokenize(request, model).status()), "add_special");
  request.set_model(std::string("other"));
  EXPECT_EQ(Tokenize(request, model).status().code(), absl::StatusCode::kNotFound);
}

TEST(DetokenizeTest, TextAndBadInput) {
  const ModelPackage model = TestModel();
  v1::DetokenizeRequest request;
  EXPECT_EQ(*Detokenize(request, model), "");
  request.add_token_ids('h');
  request.add_token_ids('i');
  EXPECT_EQ(*Detokenize(request, model), "hi");
  request.add_token_ids(UINT32_MAX);
  EXPECT_EQ(ViolatedField(Detokenize(request, model).status()), "token_ids[2]");
  request.mutable_token_ids()->Resize(262'144, 'a');
  request.mutable_token_ids()->Set(2, 'a');
  EXPECT_TRUE(Detokenize(request, model).ok());
  request.add_token_ids('a');
  EXPECT_EQ(ViolatedField(Detokenize(request, model).status()), "token_ids");
}

}  // namespace
}  // namespace flexquant::controller
