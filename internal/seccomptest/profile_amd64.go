package seccomptest

// auditArch is AUDIT_ARCH_X86_64 of linux/audit.h.
const auditArch = 0xc000003e

const nrRenameat2 = 316

// asm/unistd_64.h: statx, copy_file_range, memfd_create, execveat, preadv2, pwritev2.
var oldCalls = []uint32{332, 326, 319, 322, 327, 328}
