// SPDX-License-Identifier: MIT OR Apache-2.0

// What GDB and perf are run with: stops, or stays for a while, in a function that they know from fmmap alone.

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <expected>
#include <memory>
#include <span>
#include <string_view>

#include <unistd.h>

import fmmap.exec;

namespace {

// nop; int3; ret
constexpr std::array stopping{std::byte{0x90}, std::byte{0xcc}, std::byte{0xc3}};

// mov eax, edi; dec eax; jnz to the dec; ret
constexpr std::array counting{std::byte{0x89}, std::byte{0xf8}, std::byte{0xff}, std::byte{0xc8},
                              std::byte{0x75}, std::byte{0xfc}, std::byte{0xc3}};

auto published(fmmap::code_arena& arena, std::span<std::byte const> bytes) -> fmmap::code_span {
  auto const code = fmmap::or_throw(arena.allocate(bytes.size()));
  fmmap::or_throw(arena.write(code, bytes, "made_while_it_runs"));
  fmmap::or_throw(arena.publish());
  return code;
}

} // namespace

auto main(int argc, char** /*argv*/) -> int {
  auto const counts = argc > 1;
  auto arena = fmmap::or_throw(fmmap::code_arena::create({.perf_map = counts, .debugger = !counts}));
  if (counts) {
    std::printf("%d\n", ::getpid()); // of the list, which stays
    published(arena, counting).entry<void(std::uint32_t)>()(1'000'000'000);
  } else {
    published(arena, stopping).entry<void()>()();
  }
  return 0;
}
