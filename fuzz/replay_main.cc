// SPDX-License-Identifier: Apache-2.0
//
// Runs a fuzz target over files, for builds without libFuzzer: every file of the directories (and
// every file) given as argument, once, in order of name. Fails if there was nothing to run, so that
// a lost corpus does not look like a passed test.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

std::vector<std::filesystem::path> files_in(const std::filesystem::path& place) {
  std::vector<std::filesystem::path> files;
  if (std::filesystem::is_regular_file(place)) files.push_back(place);
  if (std::filesystem::is_directory(place))
    for (const auto& entry : std::filesystem::recursive_directory_iterator(place))
      if (entry.is_regular_file()) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

int main(int argc, char** argv) {
  std::size_t run = 0;
  for (int i = 1; i < argc; ++i) {
    for (const auto& file : files_in(argv[i])) {
      std::ifstream stream(file, std::ios::binary);
      const std::vector<char> content{std::istreambuf_iterator<char>(stream), {}};
      // Named before it is run: the last name is the one that did it.
      std::printf("%s (%zu octets)\n", file.c_str(), content.size());
      std::fflush(stdout);
      LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(content.data()), content.size());
      ++run;
    }
  }
  std::printf("%zu files run\n", run);
  if (run == 0) std::fprintf(stderr, "nothing to run: give files or directories\n");
  return run == 0;
}
