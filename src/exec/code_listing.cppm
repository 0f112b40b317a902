// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

// Who is told what code there is, beside the program. Implementation units only.
module fmmap.exec:code_listing;

import fmmap.core;
import :debugger;
import :perf_map;

namespace fmmap {

// One thread at a time.
class code_listing {
public:
  // Errors: as `perf_map::open`.
  [[nodiscard]] static auto make(bool for_perf, bool for_debuggers) -> result<std::unique_ptr<code_listing>>;

  // What the function is to be called; nothing: after its address.
  void name(std::byte const* address, std::string_view name);
  void remove_name(std::byte const* address) noexcept { names_.erase(address); }

  // Gathers what `tell` tells, which cannot fail.
  void add(std::byte const* address, std::size_t size);
  void discard() noexcept;
  void tell() noexcept;

  // Of code that is gone.
  void remove(std::byte const* address) noexcept;

  // In a forked child, which publishes nothing.
  void forget() noexcept;

private:
  std::map<std::byte const*, std::string> names_; // of what is not published yet
  std::optional<perf_map> perf_map_;
  std::optional<debugger> debugger_;
};

} // namespace fmmap
