# SPDX-License-Identifier: Apache-2.0
# psp_layer(NAME [SOURCES file...] [DEPENDS layer...] [LINK library...])
#
# Declares the library target `psp_NAME` for one layer. A layer sees only the public headers
# (include/psp/NAME) of itself, of the layers in DEPENDS and include/psp/base, because only those directories are on
# its include path: including something from above is a compile error, not a review comment.
# Unit tests lie beside the code as *_test.cc and are declared with psp_layer_tests.
function(psp_layer name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS;LINK;PRIVATE_LINK" ${ARGN})
  set(view ${CMAKE_BINARY_DIR}/layers/${name})
  file(MAKE_DIRECTORY ${view}/psp)
  if(EXISTS ${CMAKE_SOURCE_DIR}/include/psp/${name})
    file(CREATE_LINK ${CMAKE_SOURCE_DIR}/include/psp/${name} ${view}/psp/${name} SYMBOLIC)
  endif()
  file(CREATE_LINK ${CMAKE_SOURCE_DIR}/include/psp/base ${view}/psp/base SYMBOLIC)
  add_library(psp_${name} STATIC ${ARG_SOURCES})
  target_include_directories(psp_${name} PUBLIC $<BUILD_INTERFACE:${view}>)
  foreach(dependency IN LISTS ARG_DEPENDS)
    target_link_libraries(psp_${name} PUBLIC psp_${dependency})
  endforeach()
  target_link_libraries(psp_${name} PUBLIC ${ARG_LINK} PRIVATE ${ARG_PRIVATE_LINK})
endfunction()

# psp_test(NAME [SOURCES file...] [LINK target...] [LABELS label...])
# One GoogleTest program, one ctest entry.
function(psp_test name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINK;LABELS" ${ARGN})
  if(NOT PSP_BUILD_TESTS)
    return()
  endif()
  find_package(GTest REQUIRED)
  add_executable(${name} ${ARG_SOURCES})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  target_compile_definitions(${name} PRIVATE PSP_VECTORS_DIR="${PSP_VECTORS_DIR}"
    PSP_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
  target_compile_options(${name} PRIVATE -O1)  # compiles in two thirds of the time
  target_link_libraries(${name} PRIVATE ${ARG_LINK} GTest::gtest GTest::gmock GTest::gtest_main)
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT 300)
endfunction()

# psp_fuzz(NAME [LINK target...]): fuzz/NAME.cc as a libFuzzer target with clang (fuzz preset), and
# in every build as a program that replays fuzz/corpus/NAME under ctest.
function(psp_fuzz name)
  cmake_parse_arguments(ARG "" "" "LINK" ${ARGN})
  if(PSP_LIBFUZZER)
    add_executable(${name} ${name}.cc)
    target_link_options(${name} PRIVATE -fsanitize=fuzzer)
  else()
    add_executable(${name} ${name}.cc replay_main.cc)
    if(PSP_BUILD_TESTS)
      add_test(NAME ${name} COMMAND ${name} ${CMAKE_SOURCE_DIR}/fuzz/corpus/${name})
      set_tests_properties(${name} PROPERTIES LABELS fuzz TIMEOUT 300)
    endif()
  endif()
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/fuzz)
  target_link_libraries(${name} PRIVATE ${ARG_LINK})
endfunction()
