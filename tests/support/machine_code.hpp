// SPDX-License-Identifier: MIT OR Apache-2.0
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

// A function that takes nothing and returns 42; empty where the processor is another one.
inline auto returns_42() -> std::string_view {
#if defined(__x86_64__)
  return {"\xb8\x2a\x00\x00\x00\xc3", 6};
#elif defined(__aarch64__)
  return {"\x40\x05\x80\x52\xc0\x03\x5f\xd6", 8};
#else
  return {};
#endif
}

// What it returns. The sanitizer would look for the type of a function before its code, where there may be nothing.
#if defined(__clang__)
[[clang::no_sanitize("function")]]
#endif
inline auto called(std::span<std::byte const> code) -> int {
  auto* const begin = reinterpret_cast<char*>(const_cast<std::byte*>(code.data()));
  __builtin___clear_cache(begin, begin + code.size());
  return reinterpret_cast<int (*)()>(begin)();
}
