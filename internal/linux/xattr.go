package linux

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// The *xattrat calls exist since Linux 6.13 (include/uapi/linux/xattr.h); their
// numbers are the same on every architecture.
const (
	sysSetxattrat = 463
	sysGetxattrat = 464
)

// xattrArgs is struct xattr_args.
type xattrArgs struct {
	value uint64
	size  uint32
	flags uint32
}

// SetxattratEmpty is setxattrat(fd, "", AT_EMPTY_PATH): it works on an O_PATH
// descriptor and needs no /proc.
func SetxattratEmpty(fd int, name string, value []byte, flags int) error {
	n, err := unix.BytePtrFromString(name)
	if err != nil {
		return wrap("setxattrat", err)
	}
	var empty byte
	a := xattrArgs{size: uint32(len(value)), flags: uint32(flags)}
	var pin unsafe.Pointer
	if len(value) > 0 {
		pin = unsafe.Pointer(&value[0])
		a.value = uint64(uintptr(pin))
	}
	_, _, e := unix.Syscall6(sysSetxattrat, uintptr(fd), uintptr(unsafe.Pointer(&empty)), unix.AT_EMPTY_PATH,
		uintptr(unsafe.Pointer(n)), uintptr(unsafe.Pointer(&a)), unsafe.Sizeof(a))
	keepAlive(pin)
	if e != 0 {
		return wrap("setxattrat", e)
	}
	return nil
}

// GetxattratEmpty is getxattrat(fd, "", AT_EMPTY_PATH). With an empty buf it
// gives the size.
func GetxattratEmpty(fd int, name string, buf []byte) (int, error) {
	n, err := unix.BytePtrFromString(name)
	if err != nil {
		return 0, wrap("getxattrat", err)
	}
	var empty byte
	a := xattrArgs{size: uint32(len(buf))}
	var pin unsafe.Pointer
	if len(buf) > 0 {
		pin = unsafe.Pointer(&buf[0])
		a.value = uint64(uintptr(pin))
	}
	r, _, e := unix.Syscall6(sysGetxattrat, uintptr(fd), uintptr(unsafe.Pointer(&empty)), unix.AT_EMPTY_PATH,
		uintptr(unsafe.Pointer(n)), uintptr(unsafe.Pointer(&a)), unsafe.Sizeof(a))
	keepAlive(pin)
	if e != 0 {
		return 0, wrap("getxattrat", e)
	}
	return int(r), nil
}

// keepAlive holds a pointer that the kernel reads through an integer field.
//
//go:noinline
func keepAlive(unsafe.Pointer) {}

// Setxattr is setxattr(2), which follows links: for /proc/self/fd/N only.
func Setxattr(path, name string, value []byte, flags int) error {
	return wrap("setxattr", retry(func() error { return unix.Setxattr(path, name, value, flags) }))
}

// Getxattr is getxattr(2), which follows links: for /proc/self/fd/N only.
func Getxattr(path, name string, buf []byte) (int, error) {
	n, err := unix.Getxattr(path, name, buf)
	return n, wrap("getxattr", err)
}

// Removexattr is removexattr(2), which follows links: for /proc/self/fd/N only.
func Removexattr(path, name string) error {
	return wrap("removexattr", retry(func() error { return unix.Removexattr(path, name) }))
}

// Fsetxattr is fsetxattr(2); it refuses an O_PATH descriptor with EBADF.
func Fsetxattr(fd int, name string, value []byte, flags int) error {
	return wrap("fsetxattr", retry(func() error { return unix.Fsetxattr(fd, name, value, flags) }))
}

// Fgetxattr is fgetxattr(2); it refuses an O_PATH descriptor with EBADF.
func Fgetxattr(fd int, name string, buf []byte) (int, error) {
	n, err := unix.Fgetxattr(fd, name, buf)
	return n, wrap("fgetxattr", err)
}

// Flistxattr is flistxattr(2): the names, each ended by a NUL byte.
func Flistxattr(fd int, buf []byte) (int, error) {
	n, err := unix.Flistxattr(fd, buf)
	return n, wrap("flistxattr", err)
}

// Fremovexattr is fremovexattr(2).
func Fremovexattr(fd int, name string) error {
	return wrap("fremovexattr", retry(func() error { return unix.Fremovexattr(fd, name) }))
}
