# SPDX-License-Identifier: MIT OR Apache-2.0
# All CPUs busy for as long as is asked for. Sourced by all.sh, behind boots.sh.

step "soak, 8 CPUs" soaked "${SOAK_SECONDS:-600}" SMP=8 GIC=3
