# The GPU build: CUDA's compiler and libraries, and the headers that third_party/cuda brings.
#
# Defines: nereus_cuda (runtime, cuBLASLt), nereus_cutlass, nereus_cudnn and nereus_nccl (headers
# only: cuDNN and NCCL are opened when the program first needs them, so that it starts without them
# and can say so).
if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  find_program(NVCC nvcc PATHS /usr/local/cuda/bin)
  if(NOT NVCC)
    message(FATAL_ERROR
      "NEREUS_CUDA is on, and there is no nvcc on the PATH or in /usr/local/cuda/bin.\n"
      "Install the CUDA 13 toolkit, or name its compiler: -DCMAKE_CUDA_COMPILER=/path/to/nvcc")
  endif()
  set(CMAKE_CUDA_COMPILER ${NVCC})
endif()
set(CMAKE_CUDA_ARCHITECTURES ${NEREUS_CUDA_ARCHITECTURES})
if(CCACHE AND NOT CMAKE_CUDA_COMPILER_LAUNCHER)
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CCACHE})
endif()
list(PREPEND CMAKE_CUDA_COMPILER_LAUNCHER ${PROJECT_SOURCE_DIR}/cmake/strict_nvcc.sh)
enable_language(CUDA)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.8)
  message(FATAL_ERROR "nvcc is ${CMAKE_CUDA_COMPILER_VERSION}: the GPU code needs 12.8 or newer "
                      "(tested with 13.0).")
endif()
if(CMAKE_VERSION VERSION_LESS 3.26)  # does not know that nvcc has C++20
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
endif()
find_package(CUDAToolkit REQUIRED)

# Header archives, unpacked once into the build folder. Nothing is downloaded.
function(unpack_headers name archive)
  set(folder ${CMAKE_BINARY_DIR}/third_party/${name})
  set(path ${PROJECT_SOURCE_DIR}/third_party/cuda/${archive})
  file(STRINGS ${PROJECT_SOURCE_DIR}/third_party/cuda/SHA256SUMS sums REGEX "${archive}")
  string(REGEX MATCH "^[0-9a-f]+" expected "${sums}")
  if(NOT EXISTS ${folder}/${expected})
    file(SHA256 ${path} found)
    if(NOT found STREQUAL expected)
      message(FATAL_ERROR "third_party/cuda/${archive} is damaged: its SHA-256 is ${found}, "
                          "SHA256SUMS says ${expected}.")
    endif()
    file(REMOVE_RECURSE ${folder})
    file(ARCHIVE_EXTRACT INPUT ${path} DESTINATION ${CMAKE_BINARY_DIR}/third_party)
    file(TOUCH ${folder}/${expected})
  endif()
endfunction()
unpack_headers(cutlass cutlass-4.2.0.tar.xz)
unpack_headers(cudnn-frontend cudnn-frontend-1.32.0.tar.xz)

add_library(nereus_cuda INTERFACE)
target_link_libraries(nereus_cuda INTERFACE CUDA::cudart CUDA::cublasLt)
target_include_directories(nereus_cuda SYSTEM INTERFACE ${CUDAToolkit_INCLUDE_DIRS})
target_compile_definitions(nereus_cuda INTERFACE NEREUS_CUDA)
# Spills and other warnings are errors. Asserts in device code make the compiler serialize wgmma
# (ptxas C7510); that and its like are errors by cmake/strict_nvcc.sh.
target_compile_options(nereus_cuda INTERFACE
  $<$<COMPILE_LANGUAGE:CUDA>:-DNDEBUG --expt-relaxed-constexpr --extended-lambda -Xptxas=-warn-spills
    --Werror=all-warnings -lineinfo>)
target_link_libraries(nereus_options INTERFACE nereus_cuda)

add_library(nereus_cutlass INTERFACE)
target_include_directories(nereus_cutlass SYSTEM INTERFACE ${CMAKE_BINARY_DIR}/third_party/cutlass/include)

find_path(CUDNN_INCLUDE_DIR cudnn.h HINTS ${CUDAToolkit_INCLUDE_DIRS} ENV CUDNN_ROOT PATH_SUFFIXES include)
if(NOT CUDNN_INCLUDE_DIR)
  message(FATAL_ERROR "cudnn.h (cuDNN 9) was not found. Install cuDNN's development package, or set "
                      "CUDNN_ROOT to the folder that has include/cudnn.h.")
endif()
find_path(NCCL_INCLUDE_DIR nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS} ENV NCCL_ROOT PATH_SUFFIXES include)
if(NOT NCCL_INCLUDE_DIR)
  message(FATAL_ERROR "nccl.h (NCCL 2.18 or newer) was not found. Install NCCL's development package, or "
                      "set NCCL_ROOT to the folder that has include/nccl.h.")
endif()
mark_as_advanced(CUDNN_INCLUDE_DIR NCCL_INCLUDE_DIR NVCC)
add_library(nereus_cudnn INTERFACE)
target_include_directories(nereus_cudnn SYSTEM INTERFACE
  ${CMAKE_BINARY_DIR}/third_party/cudnn-frontend/include ${CUDNN_INCLUDE_DIR})
target_link_libraries(nereus_cudnn INTERFACE ${CMAKE_DL_LIBS})
add_library(nereus_nccl INTERFACE)
target_include_directories(nereus_nccl SYSTEM INTERFACE ${NCCL_INCLUDE_DIR})
target_link_libraries(nereus_nccl INTERFACE ${CMAKE_DL_LIBS})

# The same flags on a kernel that ptxas serializes: the build must refuse it.
if(NEREUS_TESTS)
  add_library(wgmma_serialized OBJECT EXCLUDE_FROM_ALL ${PROJECT_SOURCE_DIR}/cmake/wgmma_serialized.cu)
  target_link_libraries(wgmma_serialized PRIVATE nereus_cuda)
  add_test(NAME ptxas_warnings_are_errors
           COMMAND ${CMAKE_COMMAND} --build ${CMAKE_BINARY_DIR} --target wgmma_serialized)
  set_tests_properties(ptxas_warnings_are_errors PROPERTIES
    PASS_REGULAR_EXPRESSION "C7510.*error: ptxas serialized or ignored")
endif()
