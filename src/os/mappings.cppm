// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cstddef>
#include <expected>

// How many mappings the system allows a process.
export module fmmap.os:mappings;

import :calls;

export namespace fmmap::os {

// Linux's, where /proc does not tell.
inline constexpr std::size_t default_mappings = 65'530;

// Mappings that the process may add (vm.max_map_count), but for an eighth of all that is for others.
[[nodiscard]] auto count_mappings_left() noexcept -> outcome<std::size_t>;

} // namespace fmmap::os
