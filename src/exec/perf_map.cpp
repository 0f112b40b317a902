// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <array>
#include <cerrno>
#include <cinttypes>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <expected>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

module fmmap.exec;

import fmmap.core;
import fmmap.os;
import :perf_map;

namespace fmmap {

namespace {

constexpr std::string_view operation = "list code for perf";

} // namespace

auto perf_map::open() -> result<perf_map> {
  auto const path = "/tmp/perf-" + std::to_string(os::process_id()) + ".map";
  auto const fail = [&](int code, std::string_view hint = {}) {
    return std::unexpected(error::make({code, std::system_category()}, operation, path, {}, hint));
  };
  constexpr os::open_flags appending{.write = true, .create = true, .no_follow = true, .append = true};
  auto const opened = os::retry([&] { return os::open(os::working_directory, path.c_str(), appending, 0600); });
  if (!opened) {
    return fail(opened.error());
  }
  perf_map made{*opened};
  auto const found = os::status(made.file_);
  if (!found) {
    return fail(found.error());
  }
  // The folder is everybody's, and the name can be foretold.
  if (found->type != os::file_type::regular || found->owner != os::effective_user() || found->links != 1) {
    return fail(EACCES, "there is something else already");
  }
  return made;
}

void perf_map::add(std::byte const* address, std::size_t size, std::string_view name) {
  std::array<char, 48> numbers{};
  std::snprintf(numbers.data(), numbers.size(), "%" PRIxPTR " %zx ", reinterpret_cast<std::uintptr_t>(address), size);
  lines_.append(numbers.data());
  lines_.append(name);
  lines_.push_back('\n');
}

void perf_map::write() noexcept {
  auto rest = std::as_bytes(std::span{lines_});
  while (!rest.empty()) {
    auto const written = os::retry([&] { return os::write(file_, rest); });
    if (!written || *written == 0) {
      report_dropped_error(error::make({written ? EIO : written.error(), std::system_category()}, operation));
      break;
    }
    rest = rest.subspan(*written);
  }
  lines_.clear();
}

void perf_map::forget() noexcept {
  if (auto const open = std::exchange(file_, os::no_descriptor); open != os::no_descriptor) {
    if (auto const done = os::close(open); !done) {
      report_dropped_error(error::make({done.error(), std::system_category()}, "close"));
    }
  }
}

} // namespace fmmap
