// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <pthread.h>

module fmmap.os;

import :fork;

namespace fmmap::os {

auto at_fork(void (*prepare)(), void (*in_parent)(), void (*in_child)()) noexcept -> int {
  return ::pthread_atfork(prepare, in_parent, in_child);
}

} // namespace fmmap::os
