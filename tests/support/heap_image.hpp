// SPDX-License-Identifier: MIT OR Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <expected>
#include <filesystem>
#include <iterator>
#include <map>
#include <memory_resource>
#include <span>
#include <string>
#include <system_error>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/scratch.hpp"

#include "support/sealing.hpp"

import fmmap.core;
import fmmap.journal;
import fmmap.pmr;

// The file of a small heap, in memory, to be changed and to be made as it was again. It has 13 MiB and is mostly holes.
class heap_image {
public:
  static constexpr auto page_bytes = fmmap::journal::page_bytes;
  static constexpr std::size_t ring_bytes = 64 << 10;
  static constexpr auto journal_bytes = fmmap::journal::ring_begin + ring_bytes;
  static constexpr std::uint64_t books_begin = std::uint64_t{2} << 20;
  static constexpr std::uint64_t content_begin = books_begin + (std::uint64_t{10} << 20);

  using texts = std::pmr::map<int, std::pmr::string>;
  using small_object = std::array<char, 6000>; // of a slab of several pages
  using large_object = std::array<char, 40'000>;

  // With an empty journal, or one that has commits.
  explicit heap_image(bool has_commits_in_journal) {
    make(has_commits_in_journal);
    file_ = ::open(path_.c_str(), O_RDWR | O_CLOEXEC);
    check(file_ >= 0);
    size_ = size();
    view_ = static_cast<std::byte const*>(::mmap(nullptr, size_, PROT_READ, MAP_SHARED, file_, 0));
    check(view_ != MAP_FAILED);
    for_each_page_there([&](std::uint64_t at) {
      if (!is_zero(at)) {
        std::memcpy(pages_[at].data(), view_ + at, page_bytes);
      }
    });
  }
  heap_image(heap_image const&) = delete;
  auto operator=(heap_image const&) -> heap_image& = delete;
  ~heap_image() {
    ::munmap(const_cast<std::byte*>(view_), size_);
    ::close(file_);
  }

  [[nodiscard]] auto path() const -> std::filesystem::path const& { return path_; }
  [[nodiscard]] auto size() const -> std::uint64_t { return std::filesystem::file_size(path_); }

  // Where the pages lie that are not zero, of the file as it was made.
  [[nodiscard]] auto page_at(std::size_t index) const -> std::uint64_t {
    return std::next(pages_.begin(), static_cast<std::ptrdiff_t>(index % pages_.size()))->first;
  }

  void restore() {
    if (size() != size_) {
      resize(size_);
    }
    for (auto const& [at, bytes] : pages_) {
      if (std::memcmp(view_ + at, bytes.data(), page_bytes) != 0) {
        write(at, bytes);
      }
    }
    for_each_page_there([&](std::uint64_t at) {
      if (!pages_.contains(at) && !is_zero(at)) {
        write(at, page{});
      }
    });
  }

  void resize(std::uint64_t size) { check(::ftruncate(file_, static_cast<off_t>(size)) == 0); }

  void write(std::uint64_t at, std::span<std::byte const> bytes) {
    check(::pwrite(file_, bytes.data(), bytes.size(), static_cast<off_t>(at)) == static_cast<ssize_t>(bytes.size()));
  }

  // Zeros stand for what is behind the end.
  void read(std::uint64_t at, std::span<std::byte> bytes) const {
    std::ranges::fill(bytes, std::byte{0});
    check(::pread(file_, bytes.data(), bytes.size(), static_cast<off_t>(at)) >= 0);
  }

  template <class T>
  [[nodiscard]] auto value(std::uint64_t at) const -> T {
    T found;
    read(at, std::as_writable_bytes(std::span{&found, 1}));
    return found;
  }

  template <class T>
  void put(std::uint64_t at, T const& value) {
    write(at, std::as_bytes(std::span{&value, 1}));
  }

  // Makes the checksums of the header and the journal right.
  void seal() {
    std::vector<std::byte> bytes(journal_bytes);
    read(0, bytes);
    auto const all = std::span{bytes};
    seal_header(all.first<page_bytes>());
    seal_header(all.subspan<page_bytes, page_bytes>());
    seal_ring(all.subspan(fmmap::journal::ring_begin));
    write(0, all.first(std::min<std::uint64_t>(bytes.size(), size())));
  }

  // Of all that there was when it was made, how it is now; to be compared.
  [[nodiscard]] auto contents() const -> std::vector<std::byte> {
    std::vector<std::byte> all(pages_.size() * page_bytes);
    auto rest = std::span{all};
    for (auto const& [at, bytes] : pages_) {
      read(at, rest.first(page_bytes));
      rest = rest.subspan(page_bytes);
    }
    return all;
  }

private:
  using page = std::array<std::byte, page_bytes>;

  static void check(bool good) {
    if (!good) {
      throw std::system_error{errno, std::system_category()};
    }
  }

  void make(bool has_commits_in_journal) const {
    using fmmap::or_throw;
    constexpr std::uintptr_t base = 0x7a00'0000'0000; // where sanitizers have nothing
    auto heap = or_throw(fmmap::persistent_heap::create(
        path_,
        {.reserve = std::size_t{1} << 20, .base = reinterpret_cast<std::byte*>(base), .journal_size = ring_bytes}));
    auto& number = *or_throw(heap.construct<std::uint64_t>("number", 1U));
    auto& numbers = *or_throw(heap.construct<std::pmr::vector<std::uint64_t>>("numbers", 200U, 7U));
    auto& by_number = *or_throw(heap.construct<texts>("texts"));
    or_throw(heap.construct<small_object>("small"));
    or_throw(heap.construct<large_object>("large"));
    or_throw(heap.commit());
    or_throw(heap.snapshot(folder_ / "copy")); // which empties the journal
    while (has_commits_in_journal && number < 4) {
      numbers.push_back(number++);
      by_number.emplace(static_cast<int>(number), "a text that is too long for the object itself");
      or_throw(heap.commit(fmmap::commit_durability::process));
    }
  }

  [[nodiscard]] auto is_zero(std::uint64_t at) const -> bool {
    static constexpr page zeros{};
    return std::memcmp(view_ + at, zeros.data(), page_bytes) == 0;
  }

  template <class Visit>
  void for_each_page_there(Visit visit) const {
    for (auto begin = ::lseek(file_, 0, SEEK_DATA); begin >= 0;) {
      auto const end = ::lseek(file_, begin, SEEK_HOLE);
      for (auto at = begin; at < end; at += page_bytes) {
        visit(static_cast<std::uint64_t>(at));
      }
      begin = ::lseek(file_, end, SEEK_DATA);
    }
  }

  scratch folder_{memory_folder()};
  std::filesystem::path path_ = folder_ / "heap";
  int file_ = -1;
  std::uint64_t size_ = 0;
  std::byte const* view_ = nullptr;
  std::map<std::uint64_t, page> pages_;
};
