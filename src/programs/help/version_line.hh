// SPDX-License-Identifier: Apache-2.0
//
// version_line: what --version prints, in one form for all programs, installed or not, so that a
// script can read it: "NAME of softpsp VERSION". Captures name the program that made them in the
// same way.
#pragma once

#include <string>

namespace psp {

// PSP_RELEASE comes with psp_help, from the version of the project.
inline std::string version_line(const std::string& name) {
  return name + " of softpsp " PSP_RELEASE;
}

}  // namespace psp
