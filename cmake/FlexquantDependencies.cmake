# Debian 12's packages (deploy/packages.txt lists them).

find_package(Threads REQUIRED)
find_package(absl REQUIRED)
find_package(Protobuf REQUIRED)
find_package(gRPC REQUIRED)
find_package(spdlog REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(CLI11 REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash)
if(FLEXQUANT_TESTS)
  find_package(GTest REQUIRED)
endif()

# flexquant_log is spdlog, compiled into our own objects where nothing may be shared.
add_library(flexquant_log INTERFACE)
if(FLEXQUANT_STATIC)
  include(FlexquantStatic)
else()
  target_link_libraries(flexquant_log INTERFACE spdlog::spdlog)
endif()
