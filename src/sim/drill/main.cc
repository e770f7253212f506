// SPDX-License-Identifier: Apache-2.0
//
// sim_drill_host: a host of the simulator for psp-drill --model. A request is a line on stdin, its
// answer a line on stdout, both JSON (drill/host.hh); the end of stdin is its end.
//
// A test tool, not installed. It reads no clock: a run depends on its requests alone.
#include <iostream>
#include <string>

#include "drill/host.hh"

int main() {
  psp::sim::DrillHost host;
  for (std::string line; std::getline(std::cin, line);)
    std::cout << host.answer(nlohmann::json::parse(line)).dump() << std::endl;
}
