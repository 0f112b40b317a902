// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cstddef>
#include <span>

// Faults of mapped memory, as values: SIGBUS is caught for addresses that a thread has put under a guard.
export module fmmap.os:faults;

import :calls;

export namespace fmmap::os {

enum class fault_kind : unsigned char {
  none,
  no_page, // past the end of the file, or the file system could not give one
  memory_failure,
};

struct fault {
  fault_kind kind = fault_kind::none;
  std::byte* address = nullptr;
};

// Sets the handler of SIGBUS, unless it is set. A signal that no guard waits for goes to the handler from before.
[[nodiscard]] auto install_fault_handler() noexcept -> outcome<void>;

// The same, without asking the system when it has been done once.
[[nodiscard]] auto ensure_fault_handler() noexcept -> outcome<void>;

// Calls `work(context)`. A fault in `memory` ends it where it is and is returned. Guards of a thread may be nested.
[[nodiscard]] auto run_guarded(std::span<std::byte const> memory, void (*work)(void*) noexcept, void* context) noexcept
    -> fault;

} // namespace fmmap::os
