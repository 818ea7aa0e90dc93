# Finds what the distribution provides. Everything missing is collected and named at once, with the
# package to install; at the end a table says what was found.
#
# Defines: nereus_zlib, nereus_isal (empty without ISA-L), nereus_pcre2, nereus_yaml,
# nereus_sqlite, nereus_zstd, nereus_simdjson, nereus_protozero, nereus_prometheus, nereus_curl,
# nereus_crypto, and for tests nereus_gtest (GoogleTest, GoogleMock, RapidCheck).

set(dependency_table "")
set(missing_packages "")

# One line of the table; when `found` is false and `package` is not empty, the configuration fails.
function(dependency_row what found detail package)
  if(found)
    set(state "${detail}")
  elseif(package)
    set(state "MISSING: package ${package}")
    set(missing_packages ${missing_packages} ${package} PARENT_SCOPE)
  else()
    set(state "not found: ${detail}")
  endif()
  string(LENGTH "${what}" length)
  math(EXPR pad "12 - ${length}")
  string(REPEAT " " ${pad} spaces)
  set(dependency_table "${dependency_table}\n  ${what}${spaces}${state}" PARENT_SCOPE)
endfunction()

# A library by one header and one name, for those that bring no CMake configuration of their own.
function(find_plain_library target header library definition)
  find_path(${target}_INCLUDE_DIR ${header})
  find_library(${target}_LIBRARY ${library})
  mark_as_advanced(${target}_INCLUDE_DIR ${target}_LIBRARY)
  add_library(${target} INTERFACE)
  if(${target}_INCLUDE_DIR AND ${target}_LIBRARY)
    set(${target}_FOUND TRUE PARENT_SCOPE)
    target_include_directories(${target} SYSTEM INTERFACE ${${target}_INCLUDE_DIR})
    target_link_libraries(${target} INTERFACE ${${target}_LIBRARY})
    if(definition)
      target_compile_definitions(${target} INTERFACE ${definition})
    endif()
  else()
    set(${target}_FOUND FALSE PARENT_SCOPE)
  endif()
endfunction()

function(find_plain_headers target header)
  find_path(${target}_INCLUDE_DIR ${header})
  mark_as_advanced(${target}_INCLUDE_DIR)
  add_library(${target} INTERFACE)
  set(${target}_FOUND FALSE PARENT_SCOPE)
  if(${target}_INCLUDE_DIR)
    set(${target}_FOUND TRUE PARENT_SCOPE)
    target_include_directories(${target} SYSTEM INTERFACE ${${target}_INCLUDE_DIR})
  endif()
endfunction()

if((CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 12) OR
   (CMAKE_CXX_COMPILER_ID STREQUAL "Clang" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 14))
  message(FATAL_ERROR
    "The compiler is ${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION} "
    "(${CMAKE_CXX_COMPILER}); C++20 as used here needs g++ 12 or clang 14, or newer.\n"
    "Choose another with -DCMAKE_CXX_COMPILER=... (in a fresh build folder).")
endif()
dependency_row(compiler TRUE "${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}" "")

find_package(Threads REQUIRED)

# Archives before shared libraries.
set(usual_suffixes ${CMAKE_FIND_LIBRARY_SUFFIXES})
if(NEREUS_RELOCATABLE)
  list(PREPEND CMAKE_FIND_LIBRARY_SUFFIXES .a)
endif()

find_plain_library(nereus_zlib zlib.h z "")
dependency_row(zlib ${nereus_zlib_FOUND} "${nereus_zlib_LIBRARY}" zlib1g-dev)

find_plain_library(nereus_isal isa-l/igzip_lib.h isal NEREUS_HAVE_ISAL)
if(nereus_isal_FOUND)
  dependency_row(ISA-L TRUE "${nereus_isal_LIBRARY}" "")
else()
  dependency_row(ISA-L FALSE "zlib reads .gz instead, at a third of the speed (libisal-dev)" "")
endif()

find_plain_library(nereus_pcre2 pcre2.h pcre2-8 "")
dependency_row(PCRE2 ${nereus_pcre2_FOUND} "${nereus_pcre2_LIBRARY}" libpcre2-dev)

find_plain_library(nereus_yaml yaml-cpp/yaml.h yaml-cpp "")
dependency_row(yaml-cpp ${nereus_yaml_FOUND} "${nereus_yaml_LIBRARY}" libyaml-cpp-dev)
find_plain_library(nereus_sqlite sqlite3.h sqlite3 "")
dependency_row(SQLite ${nereus_sqlite_FOUND} "${nereus_sqlite_LIBRARY}" libsqlite3-dev)
find_plain_library(nereus_zstd zstd.h zstd "")
dependency_row(zstd ${nereus_zstd_FOUND} "${nereus_zstd_LIBRARY}" libzstd-dev)

find_plain_library(nereus_simdjson simdjson.h simdjson "")
dependency_row(simdjson ${nereus_simdjson_FOUND} "${nereus_simdjson_LIBRARY}" libsimdjson-dev)

find_plain_headers(nereus_protozero protozero/pbf_writer.hpp)
dependency_row(protozero ${nereus_protozero_FOUND} "${nereus_protozero_INCLUDE_DIR}"
               libprotozero-dev)
find_library(nereus_prometheus_CORE_LIBRARY prometheus-cpp-core)
mark_as_advanced(nereus_prometheus_CORE_LIBRARY)
find_plain_library(nereus_prometheus prometheus/exposer.h prometheus-cpp-pull "")
dependency_row(prometheus ${nereus_prometheus_FOUND} "${nereus_prometheus_LIBRARY}"
               prometheus-cpp-dev)
if(nereus_prometheus_FOUND)
  target_link_libraries(nereus_prometheus INTERFACE ${nereus_prometheus_CORE_LIBRARY})
endif()
set(CMAKE_FIND_LIBRARY_SUFFIXES ${usual_suffixes})

# Their headers alone: src/hub opens them when they are needed.
find_plain_headers(nereus_curl curl/curl.h)
dependency_row(libcurl ${nereus_curl_FOUND} "${nereus_curl_INCLUDE_DIR}" libcurl4-openssl-dev)
find_plain_headers(nereus_crypto openssl/evp.h)
dependency_row(OpenSSL ${nereus_crypto_FOUND} "${nereus_crypto_INCLUDE_DIR}" libssl-dev)

# MPI's C interface alone; what its compiler wrapper adds is asked of it by FindMPI.
set(MPI_CXX_SKIP_MPICXX TRUE)
if(NOT NEREUS_LIBFUZZER AND NOT NEREUS_RELOCATABLE)
  find_package(MPI QUIET COMPONENTS CXX)
endif()
set(nereus_mpi_FOUND ${MPI_CXX_FOUND})
if(NOT nereus_mpi_FOUND)
  set(nereus_mpi_FOUND FALSE)
endif()
add_library(nereus_mpi INTERFACE)
if(nereus_mpi_FOUND)
  set(mpi_libraries ${MPI_CXX_LIBRARIES})
  list(FILTER mpi_libraries EXCLUDE REGEX "libmpi_cxx")
  target_include_directories(nereus_mpi SYSTEM INTERFACE ${MPI_CXX_INCLUDE_DIRS})
  target_compile_definitions(nereus_mpi INTERFACE OMPI_SKIP_MPICXX MPICH_SKIP_MPICXX)
  target_link_libraries(nereus_mpi INTERFACE ${mpi_libraries})
  dependency_row(MPI TRUE "${mpi_libraries}" "")
else()
  dependency_row(MPI FALSE "ranks are threads of one process (libopenmpi-dev openmpi-bin)" "")
endif()

if(NEREUS_TESTS AND NOT NEREUS_LIBFUZZER)
  find_package(GTest CONFIG QUIET)
  find_package(rapidcheck CONFIG QUIET)
  if(TARGET GTest::gtest)
    dependency_row(GoogleTest TRUE "${GTest_VERSION}" "")
  else()
    dependency_row(GoogleTest FALSE "" libgtest-dev)
  endif()
  if(TARGET GTest::gmock_main)
    dependency_row(GoogleMock TRUE "${GTest_VERSION}" "")
  else()
    dependency_row(GoogleMock FALSE "" libgmock-dev)
  endif()
  if(TARGET rapidcheck)
    dependency_row(RapidCheck TRUE "${rapidcheck_DIR}" "")
  else()
    dependency_row(RapidCheck FALSE "" librapidcheck-dev)
  endif()
  add_library(nereus_gtest INTERFACE)
  target_link_libraries(nereus_gtest INTERFACE GTest::gmock GTest::gtest rapidcheck)
endif()

dependency_row(ccache "${CCACHE}" "${CCACHE}" "")

if(missing_packages)
  string(REPLACE ";" " " packages "${missing_packages}")
  message(FATAL_ERROR
    "Libraries are missing:${dependency_table}\n"
    "Install them with 'scripts/bootstrap.sh', or by hand: apt-get install ${packages}\n"
    "(-DNEREUS_TESTS=OFF builds without the tests' libraries.)")
endif()
string(MD5 hash "${dependency_table}")
if(NOT hash STREQUAL NEREUS_DEPENDENCIES)  # once, not at every reconfiguration
  message(STATUS "Nereus ${PROJECT_VERSION}, ${CMAKE_BUILD_TYPE}:${dependency_table}")
  set(NEREUS_DEPENDENCIES ${hash} CACHE INTERNAL "")
endif()
