# SPDX-License-Identifier: Apache-2.0
# psp_layer(NAME [SOURCES file...] [DEPENDS layer...] [LINK library...])
#
# Declares the library target `psp_NAME` for one layer, which lies in src/NAME. A layer sees only itself and the
# layers in DEPENDS, as "NAME/file.hh", because only those directories are on its include path: including something
# from above is a compile error, not a review comment. Of include/psp it sees only include/psp/NAME.
# Unit tests lie beside the code as *_test.cc and are declared with psp_layer_tests.
function(psp_layer name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS;LINK;PRIVATE_LINK" ${ARGN})
  set(view ${CMAKE_BINARY_DIR}/layers/${name})
  file(MAKE_DIRECTORY ${view}/psp)
  if(EXISTS ${CMAKE_SOURCE_DIR}/include/psp/${name})
    file(CREATE_LINK ${CMAKE_SOURCE_DIR}/include/psp/${name} ${view}/psp/${name} SYMBOLIC)
  endif()
  file(CREATE_LINK ${CMAKE_CURRENT_SOURCE_DIR} ${view}/${name} SYMBOLIC)
  if(NOT ARG_SOURCES)  # headers only
    add_library(psp_${name} INTERFACE)
    target_include_directories(psp_${name} INTERFACE $<BUILD_INTERFACE:${view}>)
    return()
  endif()
  add_library(psp_${name} STATIC ${ARG_SOURCES})
  psp_precompile(psp_${name} library)
  target_include_directories(psp_${name} PUBLIC $<BUILD_INTERFACE:${view}>)
  foreach(dependency IN LISTS ARG_DEPENDS)
    target_link_libraries(psp_${name} PUBLIC psp_${dependency})
  endforeach()
  target_link_libraries(psp_${name} PUBLIC ${ARG_LINK} PRIVATE ${ARG_PRIVATE_LINK})
endfunction()

# psp_test_options(TARGET): a test compiles in two thirds of the time so.
function(psp_test_options name)
  if(PSP_SANITIZE)
    target_compile_options(${name} PRIVATE -O0)
  else()
    target_compile_options(${name} PRIVATE -O1)
  endif()
endfunction()

# psp_test(NAME [SOURCES file...] [READS_FILES file...] [LINK target...] [LABELS label...])
# One GoogleTest program, one ctest entry. The sources in READS_FILES, and no others, have the paths PSP_SOURCE_DIR
# and PSP_VECTORS_DIR: so a compiler cache finds the rest in every checkout.
function(psp_test name)
  cmake_parse_arguments(ARG "" "" "SOURCES;READS_FILES;LINK;LABELS" ${ARGN})
  if(NOT PSP_BUILD_TESTS)
    return()
  endif()
  find_package(GTest REQUIRED)
  add_executable(${name} ${ARG_SOURCES} ${ARG_READS_FILES})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  if(ARG_READS_FILES)
    set_property(SOURCE ${ARG_READS_FILES} APPEND PROPERTY COMPILE_DEFINITIONS
      PSP_VECTORS_DIR="${PSP_VECTORS_DIR}" PSP_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
  endif()
  psp_test_options(${name})
  psp_precompile(${name} test)
  target_link_libraries(${name} PRIVATE ${ARG_LINK} GTest::gtest GTest::gmock GTest::gtest_main)
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT 300)
  # One at a time: cgroup programs, netlink's tables and TAPs are the whole host's.
  if("${ARG_LABELS}" MATCHES "netns|bpf")
    set_tests_properties(${name} PROPERTIES RESOURCE_LOCK lab)
  endif()
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
