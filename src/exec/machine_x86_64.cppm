// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <array>
#include <cstddef>
#include <cstdint>

// What depends on the processor. CMake chooses the file.
module fmmap.exec:machine;

namespace fmmap::machine {

inline constexpr bool is_known = true;

// What memory for code is full of: int3, wherever a jump may land in it.
inline constexpr std::byte trap{0xcc};

// A function that returns 42: mov eax, 42; ret.
inline constexpr std::array probe{std::byte{0xb8}, std::byte{42}, std::byte{0},
                                  std::byte{0},    std::byte{0},  std::byte{0xc3}};
inline constexpr int probe_answer = 42;

inline constexpr std::uint16_t elf = 62; // EM_X86_64

} // namespace fmmap::machine
