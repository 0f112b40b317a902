// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cstddef>
#include <cstdint>
#include <expected>
#include <optional>
#include <string>
#include <vector>

// What is mapped in this process, as /proc/self/maps says. Implementation units only.
module fmmap.pmr:address_map;

import fmmap.core;

namespace fmmap {

struct address_range {
  std::uintptr_t begin;
  std::uintptr_t end;
  bool accessible;
  std::string name; // of the file, or what the system calls it; may be empty
};

class address_map {
public:
  // Errors: what the system reports of reading it.
  [[nodiscard]] static auto read() -> result<address_map>;

  // The lowest range with a name that overlaps [begin, end); without any, the lowest.
  [[nodiscard]] auto find(std::uintptr_t begin, std::uintptr_t end) const noexcept -> address_range const*;

private:
  std::vector<address_range> ranges_; // ascending
};

[[nodiscard]] auto hexadecimal(std::uintptr_t value) -> std::string; // with 0x before it

// As a person would read it in a message: "0x1000-0x2000 (/usr/lib/libc.so.6)".
[[nodiscard]] auto describe(address_range const& range) -> std::string;

} // namespace fmmap
