package child

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
)

// explain turns what execve(2) answered for path into an *Error; nil stays nil.
// name is what the user called it.
func explain(name, path string, err error) error {
	if err == nil {
		return nil
	}
	shown := name
	if path != name {
		shown = name + " (" + path + ")"
	}
	if name == "" {
		shown = `""`
	}
	status := StatusNotExecutable
	if errors.Is(err, syscall.ENOENT) {
		status = StatusNotFound
	}
	return &Error{Status: status, Err: fmt.Errorf("cannot execute %s: %w%s", shown, err, reason(path, err))}
}

// reason is what is behind the errno and what to do, with a semicolon in front;
// empty where the errno says it all.
func reason(path string, err error) string {
	switch {
	case errors.Is(err, syscall.ENOENT):
		return missing(path)
	case errors.Is(err, syscall.EACCES):
		return denied(path)
	case errors.Is(err, syscall.ENOEXEC):
		return notExecutable(path)
	case errors.Is(err, syscall.EAGAIN):
		return "; the limit of processes is reached (ulimit -u of the user, or the container's pids limit): raise it or end some"
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return "; no descriptor is left to start it with: raise ulimit -n, or fs.file-max"
	case errors.Is(err, syscall.E2BIG):
		return "; arguments and environment together are too large for the kernel (ulimit -s): pass less"
	case errors.Is(err, syscall.ETXTBSY):
		return "; somebody has it open for writing: wait until it is complete"
	case errors.Is(err, syscall.ELOOP):
		return "; links, or interpreters of scripts, lead too deep: name the program itself"
	case errors.Is(err, syscall.EPERM):
		return "; the kernel forbids it: a security module, a seccomp filter, or a set-user-ID program under a tracer"
	}
	return ""
}

// missing is for a file that is not there, or that is there and needs another one
// that is not.
func missing(path string) string {
	if !exists(path) {
		return ""
	}
	head, err := readHead(path)
	if err != nil {
		return "; the file is there, so its interpreter or its dynamic loader is not"
	}
	if line, ok := shebang(head); ok {
		interp := interpreter(line)
		if strings.HasSuffix(line, "\r") {
			return "; the first line of the script ends in a carriage return, so the kernel looks for the interpreter " +
				strconv.Quote(firstWord(line)) + ": store the script with Unix line ends"
		}
		return "; the script is there, and its interpreter " + interp + " is not, or needs a file that is not: install it, or correct the first line"
	}
	if loader := elfInterpreter(path, head); loader != "" {
		return "; the program is there, and its dynamic loader " + loader + " is not: install the C library that it was built for, or use a static build"
	}
	return "; the file is there, and something that it needs is not"
}

func denied(path string) string {
	var st syscall.Stat_t
	if err := linux.Fstatat(linux.AT_FDCWD, path, 0, &st); err != nil {
		return "; a directory of the path may not be searched by this user"
	}
	switch st.Mode & syscall.S_IFMT {
	case syscall.S_IFREG:
	case syscall.S_IFDIR:
		return "; it is a directory"
	default:
		return "; it is no regular file"
	}
	if st.Mode&0o111 == 0 {
		return "; it has no execute permission: chmod +x"
	}
	if fd, err := linux.Openat(linux.AT_FDCWD, path, linux.O_PATH|linux.O_CLOEXEC, 0); err == nil {
		fs, err := linux.StatfsOf(fd)
		linux.Close(fd)
		if err == nil && fs.Flags&syscall.MS_NOEXEC != 0 {
			return "; its file system is mounted noexec: put the program elsewhere, or mount with exec"
		}
	}
	if head, err := readHead(path); err == nil {
		if line, ok := shebang(head); ok {
			return "; this user may not execute it, or not its interpreter " + interpreter(line)
		}
	}
	return "; this user may not execute it (mode " + strconv.FormatUint(uint64(st.Mode&0o7777), 8) +
		", owner " + strconv.Itoa(int(st.Uid)) + ":" + strconv.Itoa(int(st.Gid)) + ")"
}

// notExecutable is for ENOEXEC. A shell would run such a file as a script, and so
// would execvp(3); a container without a shell would not, so nobody should rely on
// it.
func notExecutable(path string) string {
	head, err := readHead(path)
	switch {
	case err != nil:
		return "; the kernel does not know its format"
	case len(head) == 0:
		return "; the file is empty"
	case bytes.HasPrefix(head, []byte("\xef\xbb\xbf#!")):
		return "; a byte order mark stands before the #! of the script: store it without one"
	case bytes.HasPrefix(head, []byte("#!")):
		return "; the first line of the script names no interpreter, or one whose format the kernel does not know"
	case bytes.HasPrefix(head, []byte("\x7fELF")):
		if m := elfMachine(head); m != "" && m != runtime.GOARCH {
			return "; it is a program for " + m + ", and this machine is " + runtime.GOARCH + ": use the build for it"
		}
		return "; the program is damaged, or for another kind of machine"
	case bytes.IndexByte(head, 0) < 0:
		return "; it is text without a first line such as #!/bin/sh: add one, or run it as: sh " + path
	}
	return "; the kernel does not know its format"
}

// readHead returns the beginning of a regular file.
func readHead(path string) ([]byte, error) {
	f, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer linux.Close(f)
	buf := make([]byte, 256) // BINPRM_BUF_SIZE: as much as the kernel looks at
	n, err := linux.Pread(f, buf, 0)
	return buf[:n], err
}

func openRegular(path string) (int, error) {
	fd, err := linux.Openat(linux.AT_FDCWD, path, linux.O_RDONLY|linux.O_CLOEXEC|linux.O_NONBLOCK|linux.O_NOCTTY, 0)
	if err != nil {
		return -1, err
	}
	var st syscall.Stat_t
	if err := linux.Fstatat(fd, "", linux.AT_EMPTY_PATH, &st); err != nil || st.Mode&syscall.S_IFMT != syscall.S_IFREG {
		linux.Close(fd)
		return -1, errors.Join(err, syscall.EINVAL)
	}
	return fd, nil
}

// shebang returns the first line of a script, without "#!".
func shebang(head []byte) (line string, ok bool) {
	rest, ok := bytes.CutPrefix(head, []byte("#!"))
	if !ok {
		return "", false
	}
	if i := bytes.IndexByte(rest, '\n'); i >= 0 {
		rest = rest[:i]
	}
	return string(rest), true
}

// firstWord is the path of the interpreter as the kernel reads it: up to a space
// or tab, carriage return and all.
func firstWord(line string) string {
	line = strings.TrimLeft(line, " \t")
	if i := strings.IndexAny(line, " \t"); i >= 0 {
		line = line[:i]
	}
	return line
}

func interpreter(line string) string {
	if w := firstWord(line); w != "" {
		return w
	}
	return "(none)"
}

// elfMachine is the machine that a program is for, as Go calls it; "" for one of
// elf(5) that no container image is likely to be built for.
func elfMachine(head []byte) string {
	if len(head) < 20 {
		return ""
	}
	switch elfOrder(head).Uint16(head[18:]) {
	case 3:
		return "386"
	case 8:
		return "mips"
	case 20:
		return "ppc"
	case 21:
		return "ppc64"
	case 22:
		return "s390x"
	case 40:
		return "arm"
	case 62:
		return "amd64"
	case 183:
		return "arm64"
	case 243:
		return "riscv64"
	case 258:
		return "loong64"
	}
	return ""
}

func elfOrder(head []byte) binary.ByteOrder {
	if head[5] == 2 { // EI_DATA: ELFDATA2MSB
		return binary.BigEndian
	}
	return binary.LittleEndian
}

// elfInterpreter returns PT_INTERP, elf(5): the path of a program's dynamic loader;
// empty for a static program, and where that cannot be read.
func elfInterpreter(path string, head []byte) string {
	if len(head) < 64 || !bytes.HasPrefix(head, []byte("\x7fELF")) {
		return ""
	}
	fd, err := openRegular(path)
	if err != nil {
		return ""
	}
	defer linux.Close(fd)
	order := elfOrder(head)
	var off, size, n uint64
	if wide := head[4] == 2; wide { // EI_CLASS: ELFCLASS64
		off, size, n = order.Uint64(head[32:]), uint64(order.Uint16(head[54:])), uint64(order.Uint16(head[56:]))
	} else {
		off, size, n = uint64(order.Uint32(head[28:])), uint64(order.Uint16(head[42:])), uint64(order.Uint16(head[44:]))
	}
	for i := range n {
		ph := make([]byte, 56)
		if k, err := linux.Pread(fd, ph, int64(off+i*size)); err != nil || k < 32 {
			return ""
		}
		if order.Uint32(ph) != 3 { // PT_INTERP
			continue
		}
		at, length := order.Uint64(ph[8:]), order.Uint64(ph[32:])
		if head[4] != 2 {
			at, length = uint64(order.Uint32(ph[4:])), uint64(order.Uint32(ph[16:]))
		}
		name := make([]byte, min(length, 4096))
		k, err := linux.Pread(fd, name, int64(at))
		if err != nil {
			return ""
		}
		name, _, _ = bytes.Cut(name[:k], []byte{0})
		return string(name)
	}
	return ""
}
