package process

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/slashrun/slashrun/internal/linux"
)

// Proc is a handle on a procfs. Its methods are safe for concurrent use.
type Proc struct {
	fd   int
	self int
}

// Open opens the procfs on /proc. Where none is mounted, as at the very start of
// a boot, it makes one that is attached nowhere, which takes CAP_SYS_ADMIN and
// fsopen(2). The handle shows the PID namespace of whoever mounted it.
func Open() (*Proc, error) {
	fd, err := linux.Openat(linux.AT_FDCWD, "/proc", linux.O_PATH|linux.O_DIRECTORY, 0)
	if err == nil {
		if magic, serr := linux.Fstatfs(fd); serr == nil && magic == linux.ProcMagic {
			return newProc(fd)
		}
		linux.Close(fd)
	}
	ctx, err := linux.Fsopen("proc")
	if err != nil {
		return nil, fmt.Errorf("/proc is not mounted, and a procfs of our own cannot be made: %w; mount /proc first", err)
	}
	defer linux.Close(ctx)
	if err := linux.FsconfigCreate(ctx); err != nil {
		return nil, fmt.Errorf("/proc is not mounted, and a procfs of our own cannot be made: %w; mount /proc first", err)
	}
	fd, err = linux.Fsmount(ctx, linux.MountAttrNoSUID|linux.MountAttrNoDev|linux.MountAttrNoExec)
	if err != nil {
		return nil, fmt.Errorf("/proc is not mounted, and a procfs of our own cannot be made: %w; mount /proc first", err)
	}
	return newProc(fd)
}

// At makes a handle on the directory fd, which stays the caller's; for tests and
// for the procfs of another root.
func At(fd int) (*Proc, error) {
	fd, err := linux.Dup(fd)
	if err != nil {
		return nil, err
	}
	return newProc(fd)
}

func newProc(fd int) (*Proc, error) {
	p := &Proc{fd: fd}
	link, err := linux.Readlinkat(fd, "self")
	if err == nil {
		p.self, err = strconv.Atoi(link)
	}
	if err != nil {
		p.Close()
		return nil, fmt.Errorf("/proc/self: %w; this procfs belongs to a PID namespace that we are not in", err)
	}
	return p, nil
}

// Close releases the handle.
func (p *Proc) Close() { linux.Close(p.fd) }

// Self is our process id as this procfs shows it, which differs from getpid(2)
// where it was mounted in an outer PID namespace.
func (p *Proc) Self() int { return p.self }

// OpenFile opens a file of the procfs for reading: "self/mountinfo".
func (p *Proc) OpenFile(name string) (*os.File, error) {
	fd, err := linux.Openat(p.fd, name, linux.O_RDONLY|linux.O_NOCTTY|linux.O_NONBLOCK, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/proc/" + name, Err: errors.Unwrap(err)}
	}
	return os.NewFile(uintptr(fd), "/proc/"+name), nil
}

// maxFile bounds what is read into memory at once.
const maxFile = 16 << 20

// ReadFile reads a small file of the procfs.
func (p *Proc) ReadFile(name string) ([]byte, error) {
	f, err := p.OpenFile(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return nil, err
	}
	return b, nil
}

// FdPath is the path of one of our descriptors as the kernel would write it.
func (p *Proc) FdPath(fd int) (string, error) {
	return linux.Readlinkat(p.fd, "self/fd/"+strconv.Itoa(fd))
}

// Identity tells one run of a machine or container from every other, and
// whether the clock was stepped during it.
type Identity struct {
	// BootID is /proc/sys/kernel/random/boot_id: one boot of one kernel, the same
	// in all its containers.
	BootID string `json:"boot_id"`
	// InitStart is when the PID namespace's init started, in clock ticks after
	// the boot (1/100 s; field 22 of /proc/1/stat). A container that is started
	// again has the boot id of before, and another InitStart.
	InitStart uint64 `json:"init_start_ticks"`
	// Offset is CLOCK_REALTIME - CLOCK_BOOTTIME in nanoseconds. It is constant for
	// as long as nobody sets the clock.
	Offset int64 `json:"realtime_minus_boottime_ns"`
}

// SameRun reports whether a and b are of one run. The offset is no part of that.
func (a Identity) SameRun(b Identity) bool {
	return a.BootID == b.BootID && a.InitStart == b.InitStart
}

// Identity reads who this run is. It fails where /proc/1 is hidden (hidepid)
// from us.
func (p *Proc) Identity() (Identity, error) {
	var id Identity
	b, err := p.ReadFile("sys/kernel/random/boot_id")
	if err != nil {
		return id, fmt.Errorf("the boot id: %w", err)
	}
	id.BootID = strings.TrimSpace(string(b))
	if len(id.BootID) != 36 {
		return id, fmt.Errorf("the boot id %q is not a UUID", id.BootID)
	}
	b, err = p.ReadFile("1/stat")
	if err != nil {
		return id, fmt.Errorf("the start time of the PID namespace's init: %w", err)
	}
	st, err := ParseStat(b)
	if err != nil {
		return id, fmt.Errorf("/proc/1/stat: %w", err)
	}
	id.InitStart = st.Start
	realtime, boottime, err := linux.Clocks()
	if err != nil {
		return id, err
	}
	id.Offset = realtime - boottime
	return id, nil
}

// Readlink reads a link of the procfs: "self/ns/pid".
func (p *Proc) Readlink(name string) (string, error) { return linux.Readlinkat(p.fd, name) }
