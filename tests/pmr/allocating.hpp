// SPDX-License-Identifier: MIT OR Apache-2.0
#pragma once

#include <cerrno>
#include <vector>

import fmmap.core;
import fmmap.os;
import fmmap.pmr;
import fmmap.test.l0;

// What sweeps over the failures of whatever allocates have in common.

// What an allocation throws becomes what a function of fmmap returns, for the sweep to look at.
template <class Do>
void as_result(Do allocate) {
  try {
    allocate();
  } catch (fmmap::allocation_error const& refused) {
    fmmap::throw_error(refused.why());
  }
}

// Blocks are then allocated by writing zeros, of the last page only where it cannot be read, and holes and extents are not
// asked for.
inline std::vector<l0::tolerance> const growing = [] {
  using fmmap::os::call;
  std::vector<l0::tolerance> all{{call::fallocate, ENOSYS}, {call::fallocate, EOPNOTSUPP}, {call::pread},
                                 {call::lseek, EINVAL},     {call::lseek, EOPNOTSUPP},     {call::ioctl, ENOSYS},
                                 {call::ioctl, EOPNOTSUPP}};
  // Less may be had where as much as would be good is not there.
  for (auto const each : {call::fallocate, call::fstat, call::mprotect, call::madvise, call::pwrite, call::ftruncate}) {
    for (auto const error : {ENOSPC, ENOMEM, EFBIG, EDQUOT}) {
      all.push_back({each, error});
    }
  }
  return all;
}();
