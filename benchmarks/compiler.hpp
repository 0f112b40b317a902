// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Runs the compiler that built the benchmarks.
#pragma once

#include <string>
#include <string_view>

namespace bench {

// The build's own command for the source file of that name, as a shell command that stops after the front end. Ends the
// program when the build has none.
auto front_end_command(std::string_view source) -> std::string;

// Runs a shell command, which must succeed.
void run_command(std::string const& command);

} // namespace bench
