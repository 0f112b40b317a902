// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

// The file in which perf(1) looks up what code is called that no program file has. Implementation units only.
module fmmap.exec:perf_map;

import fmmap.core;
import fmmap.os;

namespace fmmap {

// Lines of address, size and name. All that make code in a process share the file; each line is appended.
class perf_map {
public:
  // Errors: `std::errc::permission_denied` for a file that is somebody else's, or no file; what the system reports.
  [[nodiscard]] static auto open() -> result<perf_map>;

  perf_map(perf_map&& other) noexcept
      : file_{std::exchange(other.file_, os::no_descriptor)}, lines_{std::move(other.lines_)} {}
  auto operator=(perf_map&&) -> perf_map& = delete;
  ~perf_map() { forget(); }

  void add(std::byte const* address, std::size_t size, std::string_view name);
  // Writes what was added. What goes wrong is reported as dropped, and not tried again: the code runs all the same.
  void write() noexcept;
  void discard() noexcept { lines_.clear(); }

  void forget() noexcept;

private:
  explicit perf_map(os::descriptor file) noexcept : file_{file} {}

  os::descriptor file_;
  std::string lines_;
};

} // namespace fmmap
