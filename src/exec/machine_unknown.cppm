// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <array>
#include <cstddef>
#include <cstdint>

// A processor of which nobody has tried this: memory for code is an error there.
module fmmap.exec:machine;

namespace fmmap::machine {

inline constexpr bool is_known = false;
inline constexpr std::byte trap{};
inline constexpr std::array<std::byte, 1> probe{};
inline constexpr int probe_answer = 0;
inline constexpr std::uint16_t elf = 0;

} // namespace fmmap::machine
