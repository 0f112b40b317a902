// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cstddef>
#include <span>

module fmmap.pmr;

import :state;

// Of the interfaces of sanitizers: there in a program that is built with one, also when fmmap is not.
// NOLINTBEGIN(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp,readability-identifier-naming): the names are the sanitizer's
extern "C" {
[[gnu::weak]] void __asan_poison_memory_region(void const volatile* begin, std::size_t size);
[[gnu::weak]] void __asan_unpoison_memory_region(void const volatile* begin, std::size_t size);
[[gnu::weak]] void __tsan_acquire(void* address);
[[gnu::weak]] void __msan_unpoison(void const volatile* begin, std::size_t size);
}
// NOLINTEND(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp,readability-identifier-naming)

namespace fmmap {

auto watches_addresses() noexcept -> bool { return __asan_poison_memory_region != nullptr; }

auto has_shadow_memory() noexcept -> bool {
  return watches_addresses() || __tsan_acquire != nullptr || __msan_unpoison != nullptr;
}

void poison(std::span<std::byte const> bytes) noexcept {
  if (watches_addresses()) {
    __asan_poison_memory_region(bytes.data(), bytes.size());
  }
}

void unpoison(std::span<std::byte const> bytes) noexcept {
  if (watches_addresses()) {
    __asan_unpoison_memory_region(bytes.data(), bytes.size());
  }
}

} // namespace fmmap
