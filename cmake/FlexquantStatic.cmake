# FLEXQUANT_STATIC: programs need nothing of Debian's at run time but glibc (and for GPUs the driver and cuBLAS), so that a
# folder with them runs on another Linux machine. Debian's CMake packages name shared libraries; the archives lie beside
# them.

find_package(fmt REQUIRED)
target_compile_definitions(flexquant_log INTERFACE SPDLOG_FMT_EXTERNAL)
target_link_libraries(flexquant_log INTERFACE Threads::Threads fmt::fmt-header-only)

get_property(imported DIRECTORY PROPERTY IMPORTED_TARGETS)
# set_to_archive(VARIABLE LOCATION...): the locations, each shared library replaced by the archive beside it if there is one.
function(set_to_archive variable)
  set(result "")
  foreach(location IN LISTS ARGN)
    string(REGEX REPLACE "\\.so(\\.[0-9]+)*$" ".a" archive "${location}")
    if(EXISTS "${archive}")
      set(location "${archive}")
    endif()
    list(APPEND result "${location}")
  endforeach()
  set(${variable} "${result}" PARENT_SCOPE)
endfunction()

foreach(target IN ITEMS PkgConfig::PCRE2 PkgConfig::XXHASH)
  get_target_property(libraries ${target} INTERFACE_LINK_LIBRARIES)
  set_to_archive(libraries ${libraries})
  set_target_properties(${target} PROPERTIES INTERFACE_LINK_LIBRARIES "${libraries}")
endforeach()

find_library(FLEXQUANT_RE2_ARCHIVE libre2.a REQUIRED)
foreach(target IN LISTS imported)
  get_target_property(type ${target} TYPE)
  # gRPC's targets name it without a path.
  get_target_property(libraries ${target} INTERFACE_LINK_LIBRARIES)
  if(libraries)
    list(TRANSFORM libraries REPLACE "^(-l)?re2$" "${FLEXQUANT_RE2_ARCHIVE}")
    set_target_properties(${target} PROPERTIES INTERFACE_LINK_LIBRARIES "${libraries}")
  endif()
  if(NOT type MATCHES "SHARED_LIBRARY|UNKNOWN_LIBRARY")
    continue()
  endif()
  foreach(property IN ITEMS IMPORTED_LOCATION IMPORTED_LOCATION_NONE IMPORTED_LOCATION_RELEASE)
    get_target_property(location ${target} ${property})
    if(location)
      set_to_archive(location "${location}")
      set_target_properties(${target} PROPERTIES ${property} "${location}")
    endif()
  endforeach()
endforeach()

# What gRPC's archives need themselves, in the order its pkg-config file gives. As paths: CMake moves -l flags out of a
# region of static ones.
pkg_check_modules(GRPC_STATIC REQUIRED grpc++ protobuf)
set(private "")
foreach(library IN LISTS GRPC_STATIC_STATIC_LIBRARIES)
  find_library(archive lib${library}.a NO_CACHE)
  if(archive)
    list(APPEND private "${archive}")
  endif()
  unset(archive)
endforeach()
set(FLEXQUANT_STATIC_LIBRARIES -Wl,--start-group ${private} -Wl,--end-group -latomic -ldl -lrt)
link_libraries(-static-libgcc -static-libstdc++)
