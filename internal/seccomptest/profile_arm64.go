package seccomptest

// auditArch is AUDIT_ARCH_AARCH64 of linux/audit.h.
const auditArch = 0xc00000b7

const nrRenameat2 = 276

// asm-generic/unistd.h: statx, copy_file_range, memfd_create, execveat, preadv2, pwritev2.
var oldCalls = []uint32{291, 285, 279, 281, 286, 287}
