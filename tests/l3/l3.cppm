// SPDX-License-Identifier: MIT OR Apache-2.0

// Power loss on real file systems: one lies on a block device whose every write and flush is recorded while a workload runs.
// From the record come the devices that a power failure could have left, and each is mounted and looked at.
export module fmmap.test.l3;

export import :block_device;
export import :block_log;
export import :file_system;
export import :power_loss;
