// SPDX-License-Identifier: MIT OR Apache-2.0

#include <cstddef>
#include <cstdint>
#include <expected>
#include <span>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <xbyak/xbyak.h>

import fmmap.core;
import fmmap.exec;

using fmmap::code_arena;
using fmmap::code_strategy;
using fmmap::or_throw;

namespace {

// Greatest common divisors, with a loop and jumps; emitted into memory that is never executable.
class divisors : public Xbyak::CodeGenerator {
public:
  explicit divisors(std::span<std::uint8_t> into) : Xbyak::CodeGenerator{into.size(), into.data()} {
    mov(rax, rdi);
    L("loop");
    test(rsi, rsi);
    jz("done");
    xor_(edx, edx);
    div(rsi);
    mov(rax, rsi);
    mov(rsi, rdx);
    jmp("loop");
    L("done");
    ret();
    ready();
  }
};

// A function that calls another one, so near that the distance fits into 32 bits.
class caller : public Xbyak::CodeGenerator {
public:
  caller(std::span<std::uint8_t> into, std::byte const* at, std::byte const* callee)
      : Xbyak::CodeGenerator{into.size(), into.data()} {
    sub(rsp, 8);
    db(0xe8); // call, by a distance from its end in the arena
    dd(static_cast<std::uint32_t>(callee - (at + getSize() + sizeof(std::uint32_t))));
    inc(rax);
    add(rsp, 8);
    ret();
  }
};

} // namespace

BOOST_AUTO_TEST_SUITE(an_assembler)

BOOST_AUTO_TEST_CASE(emits_what_an_arena_runs) {
  for (auto const one : {code_strategy::no_alias, code_strategy::dual, code_strategy::toggle}) {
    auto arena = or_throw(code_arena::create({.strategy = one}));
    std::vector<std::uint8_t> memory(256);
    divisors const generated{memory};
    auto const callee = or_throw(arena.allocate(generated.getSize()));
    or_throw(arena.write(callee, std::as_bytes(std::span{generated.getCode(), generated.getSize()})));
    auto const outer = or_throw(arena.allocate(64));
    std::vector<std::uint8_t> more(64);
    caller const calling{more, outer.address(), callee.address()};
    or_throw(arena.write(outer, std::as_bytes(std::span{calling.getCode(), calling.getSize()})));
    or_throw(arena.publish());
    auto* const divisor = callee.entry<std::uint64_t(std::uint64_t, std::uint64_t)>();
    auto* const one_more = outer.entry<std::uint64_t(std::uint64_t, std::uint64_t)>();
    BOOST_TEST(divisor(1071, 462) == 21U);
    BOOST_TEST(divisor(17, 0) == 17U);
    BOOST_TEST(one_more(1071, 462) == 22U);
  }
}

BOOST_AUTO_TEST_SUITE_END()
