// SPDX-License-Identifier: Apache-2.0
//
// What most sources include of the standard library and of fmt, read once and not for each source
// (see PspPrecompiled.cmake). A source goes on to include what it uses: this is for speed alone,
// and clang-tidy compiles without it.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <deque>
#include <expected>
#include <filesystem>
#include <fmt/format.h>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <ranges>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>
