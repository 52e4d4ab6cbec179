# cmake -DOUTPUT=FILE.cc -DFOLDER=client/gateway/page -P embed_page.cmake: the page's files as arrays.
file(GLOB files LIST_DIRECTORIES false ${FOLDER}/*.html ${FOLDER}/*.js ${FOLDER}/*.css ${FOLDER}/*.svg)
list(SORT files)
set(arrays "")
set(table "")
set(count 0)
foreach(file IN LISTS files)
  get_filename_component(name ${file} NAME)
  file(READ ${file} hex HEX)
  file(SHA256 ${file} hash)
  string(SUBSTRING ${hash} 0 32 hash)
  string(LENGTH "${hex}" digits)
  math(EXPR bytes "${digits} / 2")
  string(REGEX REPLACE "(..)" "'\\\\x\\1'," data "${hex}")
  string(APPEND arrays "constexpr std::array<char, ${bytes}> kFile${count} = {${data}};\n")
  string(APPEND table "    PageFile{\"${name}\", \"\\\"${hash}\\\"\", {kFile${count}.data(), kFile${count}.size()}},\n")
  math(EXPR count "${count} + 1")
endforeach()
file(WRITE ${OUTPUT} "// Made by embed_page.cmake.
#include \"client/gateway/page_files.h\"

#include <array>

namespace flexquant::gateway {
namespace {

${arrays}
constexpr std::array<PageFile, ${count}> kFiles = {{
${table}}};

}  // namespace

absl::Span<const PageFile> PageFiles() { return kFiles; }

}  // namespace flexquant::gateway
")
