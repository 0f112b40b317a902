// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <expected>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>

module fmmap.core;

import :state;
import fmmap.os;

namespace fmmap {

namespace {

// Where an address of the process comes from.
struct mapped_place {
  std::string path;
  std::uint64_t file_offset = 0; // of the page
  std::uint64_t inode = 0;
};

// Takes a number off the front of a text, with what ends it.
auto take_number(std::string_view& text, char end, int base) -> std::uint64_t {
  std::uint64_t value = 0;
  auto const digits = text.substr(0, text.find(end));
  std::from_chars(std::to_address(digits.begin()), std::to_address(digits.end()), value, base);
  text.remove_prefix(std::min(digits.size() + 1, text.size()));
  return value;
}

// As /proc/self/maps has it: begin-end access offset major:minor inode path. Empty without /proc.
auto find_place(std::uint64_t address) -> std::optional<mapped_place> {
  auto const maps = file_view::open("/proc/self/maps");
  if (!maps) {
    return std::nullopt;
  }
  for (std::string_view line : lines{maps->text()}) {
    auto const begin = take_number(line, '-', 16);
    auto const end = take_number(line, ' ', 16);
    if (address < begin || address >= end) {
      continue;
    }
    line.remove_prefix(std::min(line.find(' ') + 1, line.size()));
    auto const offset = take_number(line, ' ', 16);
    line.remove_prefix(std::min(line.find(' ') + 1, line.size())); // the device: btrfs shows another than fstat does
    auto const inode = take_number(line, ' ', 10);
    line.remove_prefix(std::min(line.find_first_not_of(' '), line.size()));
    return mapped_place{
        .path = std::string{line},
        .file_offset = offset + (os::round_down(address, os::page_size()) - begin),
        .inode = inode,
    };
  }
  return std::nullopt;
}

// A descriptor of the file that this process has open, such as the mapping's own; none when there is none. The file is not
// opened for this: closing it again would release the process's fcntl(2) locks on it, and it may have lost its name.
auto find_descriptor(mapped_place const& place) -> os::descriptor {
  constexpr os::descriptor most_descriptors = 65'536;
  for (os::descriptor candidate = 0; candidate < most_descriptors; ++candidate) {
    auto const status = os::status(candidate);
    if (status && status->inode == place.inode && status->type == os::file_type::regular) {
      if (auto const access = os::access_of(candidate); access && access->read) {
        return candidate;
      }
    }
  }
  return os::no_descriptor;
}

auto is_hole(os::descriptor source, std::uint64_t offset) -> bool {
  auto const data = next_data(source, offset, offset + os::page_size());
  return data && data->begin >= offset + os::page_size();
}

// Why the system does not give a page of a file: it does not say, so the file is asked. Somebody may be cutting it and making
// it longer all the while; that a read works and the page is not there is believed when it is so time and again.
auto reason_for(os::descriptor source, std::uint64_t offset, std::byte* page, bool writing) -> std::error_code {
  constexpr int attempts = 20;
  std::byte first{};
  for (int i = 0; i < attempts; ++i) {
    auto const got = os::retry([&] { return os::read_at(source, offset, {&first, 1}); });
    if (!got) {
      return make_error_code(errc::device_fault);
    }
    if (*got == 0 || populate(page, os::page_size(), writing)) {
      return make_error_code(errc::truncated);
    }
  }
  return is_hole(source, offset) ? std::make_error_code(std::errc::no_space_on_device)
                                 : make_error_code(errc::device_fault);
}

// The error that a fault in guarded memory stands for.
[[gnu::cold]] auto describe(os::fault const& fault, bool writing) -> std::unexpected<error> {
  auto const address = reinterpret_cast<std::uintptr_t>(fault.address);
  auto const place = find_place(address);
  auto const fail = [&](std::error_code code, std::string_view hint = {}) {
    return std::unexpected(error::make(
        code, writing ? "write" : "read", place ? std::string_view{place->path} : std::string_view{},
        place ? std::optional{byte_range{.offset = place->file_offset, .length = os::page_size()}} : std::nullopt,
        hint));
  };
  if (fault.kind == os::fault_kind::memory_failure) {
    return fail(make_error_code(errc::device_fault), "the memory that held them has failed");
  }
  auto const source = place ? find_descriptor(*place) : os::no_descriptor;
  if (source == os::no_descriptor) {
    return fail(make_error_code(errc::truncated),
                "or its device has failed, or there is no space: the process has no descriptor to ask by");
  }
  auto* const page = reinterpret_cast<std::byte*>(os::round_down(address, os::page_size()));
  return fail(reason_for(source, place->file_offset, page, writing));
}

struct copy_request {
  std::byte* to;
  std::byte const* from;
  std::size_t length;
};

void copy(void* context) noexcept {
  auto const& request = *static_cast<copy_request const*>(context);
  std::memmove(request.to, request.from, request.length);
}

// Copies where `guarded` is one of the two.
auto copy_guarded(std::span<std::byte const> from, std::span<std::byte> to, std::span<std::byte const> guarded,
                  bool writing) -> result<void> {
  if (from.size() > to.size()) [[unlikely]] {
    return failure(errc::out_of_range, "copy", {}, byte_range{.offset = 0, .length = from.size()},
                   "there is room for " + std::to_string(to.size()) + " bytes");
  }
  if (from.empty()) {
    return {};
  }
  copy_request request{.to = to.data(), .from = from.data(), .length = from.size()};
  return run_guarded(guarded, writing, copy, &request);
}

} // namespace

auto install_fault_handler() -> result<void> {
  if (auto const done = os::install_fault_handler(); !done) {
    return failure(done.error(), "set a handler of SIGBUS");
  }
  return {};
}

auto run_guarded(std::span<std::byte const> memory, bool writing, void (*work)(void*) noexcept, void* context)
    -> result<void> {
  if (auto const ready = os::ensure_fault_handler(); !ready) [[unlikely]] {
    return failure(ready.error(), "set a handler of SIGBUS");
  }
  auto const fault = os::run_guarded(memory, work, context);
  if (fault.kind != os::fault_kind::none) [[unlikely]] {
    return describe(fault, writing);
  }
  return {};
}

auto guarded_copy_out(std::span<std::byte const> from, std::span<std::byte> to) -> result<void> {
  return copy_guarded(from, to, from, false);
}

auto guarded_copy_in(std::span<std::byte const> from, std::span<std::byte> to) -> result<void> {
  return copy_guarded(from, to, to, true);
}

} // namespace fmmap
