// SPDX-License-Identifier: MIT OR Apache-2.0

// Handlers of forks.
export module fmmap.os:fork;

export namespace fmmap::os {

// pthread_atfork(3), with handlers that are called as long as the program or the shared library is loaded that this code is a part
// of. Returns the error, or 0.
//
// For initialisers: a fork during a registration would leave the child with one half done.
//
// Where several shared libraries of a program have a copy of fmmap each, the dynamic linker runs the initialisers of all, and may
// bind what one of them names to what another one has. Handlers of two copies that share a mutex lock it twice, and those of a
// library that is gone cannot be called. So this is hidden from the dynamic linker, and whatever registers handlers has to be, with
// all that they use.
[[nodiscard, gnu::visibility("hidden")]] auto at_fork(void (*prepare)(), void (*in_parent)(),
                                                      void (*in_child)()) noexcept -> int;

} // namespace fmmap::os
