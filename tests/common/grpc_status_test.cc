#include "proto/grpc_status.h"

#include <gtest/gtest.h>

#include <string>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace flexquant {
namespace {

TEST(GrpcStatusTest, FieldViolationTravelsBothWays) {
  const absl::Status status = FieldViolation("sampling.top_p", "1.5 is not in (0, 1]");
  const grpc::Status wire = ToGrpcStatus(status);
  EXPECT_EQ(wire.error_code(), grpc::StatusCode::INVALID_ARGUMENT);

  google::rpc::Status details;
  ASSERT_TRUE(details.ParseFromString(wire.error_details()));
  ASSERT_EQ(details.details_size(), 1);
  google::rpc::BadRequest bad_request;
  ASSERT_TRUE(details.details(0).UnpackTo(&bad_request));
  ASSERT_EQ(bad_request.field_violations_size(), 1);
  EXPECT_EQ(bad_request.field_violations(0).field(), "sampling.top_p");

  const absl::Status back = FromGrpcStatus(wire);
  EXPECT_EQ(back, status);
  EXPECT_NE(DescribeStatus(back).find("sampling.top_p: 1.5 is not in (0, 1]"), std::string::npos);
}

TEST(GrpcStatusTest, CarriesReasonAndRetryDelay) {
  const absl::Status status =
      WithRetryDelay(WithErrorInfo(absl::ResourceExhaustedError("queue full"), "QUEUE_FULL"), absl::Milliseconds(1500));
  const absl::Status back = FromGrpcStatus(ToGrpcStatus(status));
  EXPECT_EQ(back.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(DescribeStatus(back).find("try again in 1.5 s"), std::string::npos) << DescribeStatus(back);
}

TEST(GrpcStatusTest, OkStaysOk) {
  EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok());
  EXPECT_TRUE(FromGrpcStatus(grpc::Status::OK).ok());
}

TEST(GrpcStatusTest, LongMessagesAreCutBetweenCodePoints) {
  std::string message = "x";  // makes every later code point straddle an even offset
  while (message.size() < 10000) {
    message += "\xC3\xA9";
  }
  const std::string cut = ToGrpcStatus(absl::InternalError(message)).error_message();
  EXPECT_LT(cut.size(), 4200U);
  ASSERT_EQ(cut.substr(cut.size() - 3), "...");
  EXPECT_EQ((cut.size() - 3) % 2, 1U) << "the last code point was split";
}

TEST(GrpcStatusTest, GarbageDetailsAreIgnored) {
  const absl::Status back = FromGrpcStatus(grpc::Status(grpc::StatusCode::ABORTED, "gone", "\xFF\xFF\xFF"));
  EXPECT_EQ(back.code(), absl::StatusCode::kAborted);
  EXPECT_EQ(back.message(), "gone");
}

}  // namespace
}  // namespace flexquant
