// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <atomic>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

module fmmap.core;

import :state;

namespace fmmap {

struct error_details {
  std::atomic<unsigned> owners{1};
  std::error_code code;
  std::string operation;
  std::string path;
  std::optional<byte_range> range;
  std::string message;
};

namespace {

class category final : public std::error_category {
public:
  [[nodiscard]] auto name() const noexcept -> char const* override { return "fmmap"; }

  [[nodiscard]] auto message(int value) const -> std::string override {
    switch (static_cast<errc>(value)) {
    case errc::out_of_range:
      return "the range reaches past the end";
    case errc::not_a_regular_file:
      return "it is not a regular file";
    case errc::copy_on_write:
      return "a copy-on-write mapping never reaches its file";
    case errc::read_only:
      return "it is open for reading only";
    case errc::reservation_exceeded:
      return "the address space reserved for the mapping is too small";
    case errc::not_durable:
      return "memory without a file on a device cannot be made durable";
    case errc::writable_and_executable:
      return "memory is never writable and executable at once";
    case errc::destructive_advice:
      return "this advice would change bytes";
    case errc::address_in_use:
      return "the address is already in use";
    case errc::path_reused:
      return "the name now belongs to another file";
    case errc::symbolic_link:
      return "the path is a symbolic link";
    case errc::invalid_options:
      return "the options contradict each other";
    case errc::closed:
      return "the handle is closed";
    case errc::in_use:
      return "something else still shares it";
    case errc::already_run:
      return "the job has already run";
    case errc::misaligned:
      return "the bytes are not aligned for the type";
    case errc::truncated:
      return "the file has become shorter";
    case errc::device_fault:
      return "the device cannot give the bytes";
    case errc::lock_not_held:
      return "the lock is not held as this needs it";
    case errc::forked:
      return "it belongs to the process that this one was forked from";
    case errc::lock_timed_out:
      return "it was locked for longer than the wait";
    case errc::not_found:
      return "there is nothing of that name";
    case errc::already_exists:
      return "there is something of that name already";
    case errc::type_mismatch:
      return "what has that name is of another type";
    case errc::not_a_heap:
      return "it is not a persistent heap";
    case errc::incompatible:
      return "it was made by a program with another layout of objects";
    case errc::damaged:
      return "the file contradicts itself";
    case errc::escaped_pointer:
      return "something in it points to memory that ends with the process";
    case errc::data_race:
      return "something in it was changed meanwhile";
    case errc::already_published:
      return "the code is published, and does not change any more";
    case errc::not_allocated:
      return "it is not allocated here, or not any more";
    case errc::sealed:
      return "the arena is sealed";
    }
    return "unknown error " + std::to_string(value);
  }

  [[nodiscard]] auto default_error_condition(int value) const noexcept -> std::error_condition override {
    if (static_cast<errc>(value) == errc::lock_timed_out) {
      return std::make_error_condition(std::errc::timed_out);
    }
    return {value, *this};
  }
};

auto describe(byte_range range) -> std::string {
  auto const begin = std::to_string(range.offset);
  if (range.length == to_end) {
    return "bytes from " + begin + " on";
  }
  return std::to_string(range.length) + " bytes at " + begin;
}

// As it is, but for what would end the text or begin a line of its own.
auto printable(std::string_view name) -> std::string {
  constexpr std::string_view digits = "0123456789abcdef";
  std::string text;
  for (char const c : name) {
    auto const value = static_cast<unsigned char>(c);
    if (value >= 0x20 && value != 0x7f) {
      text += c;
    } else {
      text.append("\\x") += digits[value / 16U];
      text += digits[value % 16U];
    }
  }
  return text;
}

// cannot map 4096 bytes at 8192 of "data.bin": the range reaches past the end; the file is 4096 bytes long
auto sentence(error_details const& details, std::string_view hint) -> std::string {
  std::string text = "cannot " + details.operation;
  if (details.range) {
    text += ' ' + describe(*details.range);
  }
  if (!details.path.empty()) {
    text += (details.range ? " of \"" : " \"") + printable(details.path) + '"';
  }
  text += ": " + details.code.message();
  if (!hint.empty()) {
    text.append("; ").append(hint);
  }
  return text;
}

std::atomic<dropped_error_handler> the_dropped_error_handler{nullptr};

} // namespace

auto errc_category() noexcept -> std::error_category const& {
  static category const instance;
  return instance;
}

auto make_error_code(errc code) noexcept -> std::error_code { return {static_cast<int>(code), errc_category()}; }

error::error(std::error_code code) noexcept : value_{code.value()} {
  auto const& from = code.category();
  kind_ = from == std::system_category()    ? kind::system
          : from == std::generic_category() ? kind::generic
          : from == errc_category()         ? kind::fmmap
                                            : kind::other;
}

auto error::make(std::error_code code, std::string_view operation, std::string_view path,
                 std::optional<byte_range> range, std::string_view hint) noexcept -> error {
  error result{code};
  try {
    auto* const details = new error_details{
        .code = code, .operation = std::string{operation}, .path = std::string{path}, .range = range, .message = {}};
    result.details_ = details;
    details->message = sentence(*details, hint);
  } catch (std::bad_alloc const&) {
    // The code is what a program acts on; the sentence is lost.
    if (result.kind_ == kind::other && result.details_ == nullptr) {
      return error{std::make_error_code(std::errc::not_enough_memory)};
    }
  }
  return result;
}

error::error(error const& other) noexcept : value_{other.value_}, kind_{other.kind_}, details_{other.details_} {
  if (details_ != nullptr) {
    details_->owners.fetch_add(1, std::memory_order_relaxed);
  }
}

auto error::operator=(error const& other) noexcept -> error& {
  error copy{other};
  return *this = std::move(copy);
}

auto error::operator=(error&& other) noexcept -> error& {
  std::swap(value_, other.value_);
  std::swap(kind_, other.kind_);
  std::swap(details_, other.details_);
  return *this;
}

void error::release() noexcept {
  if (details_->owners.fetch_sub(1, std::memory_order_acq_rel) == 1) {
    delete details_;
  }
}

auto error::code() const noexcept -> std::error_code {
  switch (kind_) {
  case kind::system:
    return {value_, std::system_category()};
  case kind::generic:
    return {value_, std::generic_category()};
  case kind::fmmap:
    return {value_, errc_category()};
  case kind::other:
    break;
  }
  return details_ != nullptr ? details_->code : make_error_code(errc::closed); // moved from
}

auto error::operation() const noexcept -> std::string_view {
  return details_ != nullptr ? std::string_view{details_->operation} : std::string_view{};
}

auto error::path() const noexcept -> std::string_view {
  return details_ != nullptr ? std::string_view{details_->path} : std::string_view{};
}

auto error::range() const noexcept -> std::optional<byte_range> {
  return details_ != nullptr ? details_->range : std::nullopt;
}

auto error::message() const -> std::string {
  auto const* const known = text();
  return known != nullptr ? known : code().message();
}

auto error::text() const noexcept -> char const* {
  return details_ != nullptr && !details_->message.empty() ? details_->message.c_str() : nullptr;
}

system_error::system_error(error why) : std::system_error{why.code(), why.message()}, why_{std::move(why)} {}

auto system_error::what() const noexcept -> char const* {
  auto const* const text = why_.text();
  return text != nullptr ? text : std::system_error::what();
}

void throw_error(error why) { throw system_error{std::move(why)}; }

auto set_dropped_error_handler(dropped_error_handler handler) noexcept -> dropped_error_handler {
  return the_dropped_error_handler.exchange(handler);
}

void report_dropped_error(error const& why) noexcept {
  if (auto const handler = the_dropped_error_handler.load()) {
    handler(why);
  }
}

} // namespace fmmap
