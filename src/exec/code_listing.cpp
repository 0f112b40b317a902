// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <array>
#include <cinttypes>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <expected>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

module fmmap.exec;

import fmmap.core;
import :code_listing;
import :debugger;
import :perf_map;

namespace fmmap {

namespace {

auto name_after(std::byte const* address) -> std::string {
  std::array<char, 32> name{};
  std::snprintf(name.data(), name.size(), "code_%" PRIxPTR, reinterpret_cast<std::uintptr_t>(address));
  return name.data();
}

} // namespace

auto code_listing::make(bool for_perf, bool for_debuggers) -> result<std::unique_ptr<code_listing>> {
  auto made = std::make_unique<code_listing>();
  if (for_perf) {
    auto opened = perf_map::open();
    if (!opened) {
      return std::unexpected(std::move(opened).error());
    }
    made->perf_map_.emplace(std::move(*opened));
  }
  if (for_debuggers) {
    made->debugger_.emplace();
  }
  return made;
}

void code_listing::name(std::byte const* address, std::string_view name) {
  std::string printed{name}; // as the rest of a line, and as a string that ends with a zero
  std::ranges::replace_if(printed, [](char one) { return static_cast<unsigned char>(one) < ' '; }, '?');
  names_[address] = std::move(printed);
}

void code_listing::add(std::byte const* address, std::size_t size) {
  auto const found = names_.find(address);
  auto const name = found != names_.end() && !found->second.empty() ? found->second : name_after(address);
  if (perf_map_) {
    perf_map_->add(address, size, name);
  }
  if (debugger_) {
    debugger_->add(address, size, name);
  }
}

void code_listing::discard() noexcept {
  if (perf_map_) {
    perf_map_->discard();
  }
  if (debugger_) {
    debugger_->discard();
  }
}

void code_listing::tell() noexcept {
  names_.clear();
  if (perf_map_) {
    perf_map_->write();
  }
  if (debugger_) {
    debugger_->tell();
  }
}

void code_listing::remove(std::byte const* address) noexcept {
  if (debugger_) {
    debugger_->remove(address);
  }
}

void code_listing::forget() noexcept {
  if (perf_map_) {
    perf_map_->forget();
  }
}

} // namespace fmmap
