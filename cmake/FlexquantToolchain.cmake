# Warnings as errors, ccache, sanitizers. Every target of ours is made by flexquant_library or flexquant_program.

find_program(FLEXQUANT_CCACHE ccache)
if(FLEXQUANT_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${FLEXQUANT_CCACHE})
endif()

add_library(flexquant_options INTERFACE)
target_compile_options(flexquant_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wpedantic;-Wshadow;-Wnon-virtual-dtor;-Werror>
  $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra;-Werror=all-warnings>)
target_include_directories(flexquant_options INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_definitions(flexquant_options INTERFACE FLEXQUANT_VERSION="${PROJECT_VERSION}")

if(FLEXQUANT_SANITIZER STREQUAL "address")
  add_compile_options(-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
  add_link_options(-fsanitize=address,undefined)
elseif(FLEXQUANT_SANITIZER STREQUAL "fuzzer")
  if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    message(FATAL_ERROR "Fuzzing needs clang, not ${CMAKE_CXX_COMPILER}: apt-get install clang, "
      "then cmake --preset fuzz in an empty build/fuzz")
  endif()
  # Every object counts its branches; tests/fuzz links the programs with the fuzzer itself.
  add_compile_options(-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
  add_link_options(-fsanitize=address,undefined)
elseif(FLEXQUANT_SANITIZER STREQUAL "thread")
  add_compile_options(-fsanitize=thread)
  # Abseil's Debian build is not instrumented; GCC warns about fences TSan cannot see.
  add_compile_options(-Wno-tsan)
  add_link_options(-fsanitize=thread)
elseif(FLEXQUANT_SANITIZER)
  message(FATAL_ERROR "FLEXQUANT_SANITIZER is '${FLEXQUANT_SANITIZER}'; allowed: empty, address, thread, fuzzer")
endif()

# flexquant_library(NAME SOURCES... [DEPENDS ...]) makes a static library with our options.
function(flexquant_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_link_libraries(${name} PUBLIC flexquant_options ${ARG_DEPENDS})
endfunction()

# flexquant_program(NAME SOURCES... [DEPENDS ...]) makes a program in bin/.
function(flexquant_program name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE flexquant_options ${ARG_DEPENDS})
endfunction()

# flexquant_test(NAME SOURCES... [DEPENDS ...] [LABELS ...]) makes a GoogleTest program and registers it with CTest as one test.
function(flexquant_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;DEPENDS;LABELS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE flexquant_options ${ARG_DEPENDS} GTest::gmock GTest::gtest_main)
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 600)
  endif()
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABELS}"
    ENVIRONMENT "FLEXQUANT_BIN=${CMAKE_RUNTIME_OUTPUT_DIRECTORY};FLEXQUANT_SOURCE=${CMAKE_SOURCE_DIR}")
endfunction()
