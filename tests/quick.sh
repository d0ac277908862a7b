# SPDX-License-Identifier: MIT OR Apache-2.0
# The machines that see most: for the time between two edits. Sourced by all.sh, behind boots.sh.

step "virt: reports" reports 516424 524288
step "virt, 4 CPUs, EL2: tests" boots SMP=4 EL2=1
step "virt, 2 CPUs, GICv3, max: tests" boots SMP=2 GIC=3 CPU=max
step "rpi4: tests" boots BOARD=rpi4
step "virtio disk" disk SMP=4
