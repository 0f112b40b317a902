// SPDX-License-Identifier: MIT OR Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <utility>

#include "support/scratch.hpp"

import fmmap.core;
import fmmap.journal;
import fmmap.os;

// A file with a journal, whose content is a text: commits what differs from the text before.
class journaled {
public:
  explicit journaled(std::filesystem::path const& path)
      : journaled{path, [](auto file) { return fmmap::journal::log::open(std::move(file)); }} {}

  // Creates it, with a content of zeros.
  journaled(std::filesystem::path const& path, std::size_t ring_pages, std::size_t content_pages)
      : journaled{blank_file(path, 2 + ring_pages + content_pages), [&](auto file) {
                    constexpr std::size_t never_reached = 2; // pages
                    std::array<std::byte, fmmap::journal::owner_bytes> of_owner{};
                    auto const file_pages = 2 + ring_pages + content_pages;
                    return fmmap::journal::log::create(std::move(file), ring_pages * fmmap::journal::page_bytes,
                                                       file_pages * fmmap::journal::page_bytes,
                                                       (file_pages + never_reached) * fmmap::journal::page_bytes,
                                                       of_owner);
                  }} {}

  journaled(journaled const&) = delete;
  auto operator=(journaled const&) -> journaled& = delete;
  ~journaled() = default;

  [[nodiscard]] auto log() -> fmmap::journal::log& { return log_; }
  [[nodiscard]] auto log() const -> fmmap::journal::log const& { return log_; }

  // What is in place.
  [[nodiscard]] auto content() const -> std::string {
    return read_back(path_).substr(static_cast<std::size_t>(log_.content_begin()),
                                   static_cast<std::size_t>(log_.file_bytes() - log_.content_begin()));
  }

  // What has to be changed for the content to be that.
  [[nodiscard]] auto changes_to(std::string const& next) const -> fmmap::journal::transaction {
    namespace journal = fmmap::journal;
    auto const before = content();
    auto const first = log_.content_begin() / journal::page_bytes;
    journal::transaction changes;
    for (std::size_t i = 0; i < next.size() / journal::page_bytes; ++i) {
      auto lines = log_.unapplied_lines(first + i);
      for (std::size_t line = 0; line < 64; ++line) {
        auto const at = (i * journal::page_bytes) + (line * journal::line_bytes);
        lines |=
            before.compare(at, journal::line_bytes, next, at, journal::line_bytes) == 0 ? 0 : std::uint64_t{1} << line;
      }
      if (lines != 0) {
        changes.change(first + i, lines, bytes_of(next).subspan(i * journal::page_bytes).first<journal::page_bytes>());
      }
    }
    return changes;
  }

  [[nodiscard]] auto commit(std::string const& next, fmmap::journal::level wanted) -> fmmap::result<void> {
    return log_.commit(changes_to(next), wanted, log_.file_bytes());
  }

private:
  class descriptor {
  public:
    descriptor(std::filesystem::path const& path, bool direct)
        : value_{fmmap::os::open(fmmap::os::working_directory, path.c_str(), {.write = true, .direct = direct}, 0)
                     .value()} {}
    descriptor(descriptor const&) = delete;
    auto operator=(descriptor const&) -> descriptor& = delete;
    ~descriptor() { (void)fmmap::os::close(value_); }
    [[nodiscard]] auto get() const -> fmmap::os::descriptor { return value_; }

  private:
    fmmap::os::descriptor value_;
  };

  static auto blank_file(std::filesystem::path const& path, std::size_t pages) -> std::filesystem::path const& {
    std::ofstream{path};
    std::filesystem::resize_file(path, pages * fmmap::journal::page_bytes);
    return path;
  }

  template <class Make>
  journaled(std::filesystem::path path, Make make)
      : path_{std::move(path)},
        cached_{path_, false},
        direct_{path_, true},
        log_{fmmap::or_throw(make(fmmap::journal::journaled_file{
            .cached = cached_.get(), .direct = direct_.get(), .path = path_.string()}))} {}

  std::filesystem::path path_;
  descriptor cached_;
  descriptor direct_;
  fmmap::journal::log log_;
};
