// SPDX-License-Identifier: MIT OR Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

import fmmap.journal;

// Makes checksums right, so that whatever is under them passes for written: a reader's safety may not depend on them.

inline void seal_header(std::span<std::byte, fmmap::journal::page_bytes> bytes) {
  auto header = fmmap::journal::value_at<fmmap::journal::slot>(bytes);
  header.about.checksum = fmmap::journal::checksum_of(header);
  std::memcpy(bytes.data(), &header, sizeof header);
}

// The record or the reference that `bytes` begin with, if they do. One that is longer than they are is cut.
inline void seal_record(std::span<std::byte> bytes) {
  namespace journal = fmmap::journal;
  auto about = journal::value_at<journal::record_header>(bytes);
  if (about.magic != journal::record_magic && about.magic != journal::reference_magic) {
    return;
  }
  about.length = std::clamp<std::uint64_t>(about.length, sizeof about, bytes.size());
  std::memcpy(bytes.data(), &about, sizeof about);
  constexpr auto begin = offsetof(journal::record_header, salt);
  about.checksum = journal::checksum(bytes.first(about.length).subspan(begin));
  std::memcpy(bytes.data(), &about, sizeof about);
}

// All of a ring, from its end on: a record may hold the beginning of another one.
inline void seal_ring(std::span<std::byte> ring) {
  for (auto at = ring.size(); at > 0;) {
    at -= fmmap::journal::page_bytes;
    seal_record(ring.subspan(at));
  }
}
