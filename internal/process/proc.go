package process

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
)

// Proc is a handle on a procfs. Its methods are safe for concurrent use.
type Proc struct {
	fd   int
	self int

	tableMu sync.Mutex
	table   []byte // of mountinfo
	tableFd int    // -1 if it was not read yet

	oursOnce sync.Once
	oursErr  error

	shiftOnce sync.Once
	shift     int64
	shiftErr  error
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
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM} {
		if errors.Is(err, e) {
			return nil, fmt.Errorf("/proc: %w", err) // which says nothing about /proc
		}
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
	p := &Proc{fd: fd, tableFd: -1}
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
func (p *Proc) Close() {
	linux.Close(p.fd)
	if p.tableFd >= 0 {
		linux.Close(p.tableFd)
	}
}

// MountInfo is the text of /proc/self/mountinfo. Unless it is to be fresh, it may
// be one that was read before, if no mount came or went since, which poll(2) tells
// (proc_pid_mountinfo(5)); of a changed propagation or changed options it tells
// nothing. Callers do not change the text.
func (p *Proc) MountInfo(fresh bool) ([]byte, error) {
	p.tableMu.Lock()
	defer p.tableMu.Unlock()
	if p.tableFd >= 0 && !fresh {
		if changed, err := linux.PollPriority(p.tableFd); err == nil && !changed {
			return p.table, nil
		}
	}
	err := p.readTable()
	if err != nil && p.tableFd >= 0 {
		linux.Close(p.tableFd)
		p.tableFd, p.table = -1, nil
	}
	return p.table, err
}

// readTable reads the table from its beginning.
func (p *Proc) readTable() (err error) {
	if p.tableFd < 0 {
		p.tableFd, err = p.open("self/mountinfo")
	} else {
		linux.PollPriority(p.tableFd) // takes note of the changes so far
		err = linux.SeekStart(p.tableFd)
	}
	if err != nil {
		return err
	}
	p.table, err = readAll(p.tableFd, "/proc/self/mountinfo")
	return err
}

// Self is our process id as this procfs shows it, which differs from getpid(2)
// where it was mounted in an outer PID namespace.
func (p *Proc) Self() int { return p.self }

// open opens a file of the procfs for reading. It stays a bare descriptor: an
// os.File would start the runtime's poller for it, and a boot reads dozens.
func (p *Proc) open(name string) (int, error) {
	fd, err := linux.Openat(p.fd, name, linux.O_RDONLY|linux.O_NOCTTY|linux.O_NONBLOCK, 0)
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: "/proc/" + name, Err: errors.Unwrap(err)}
	}
	return fd, nil
}

// maxFile bounds what is read into memory at once.
const maxFile = 16 << 20

// ReadFile reads a file of the procfs to its end.
func (p *Proc) ReadFile(name string) ([]byte, error) {
	fd, err := p.open(name)
	if err != nil {
		return nil, err
	}
	defer linux.Close(fd)
	return readAll(fd, "/proc/"+name)
}

func readAll(fd int, name string) ([]byte, error) {
	b := make([]byte, 0, 1024)
	for len(b) < maxFile {
		if cap(b)-len(b) < 512 {
			b = append(make([]byte, 0, 4*cap(b)), b...)
		}
		n, err := linux.Read(fd, b[len(b):cap(b)])
		if err != nil {
			return nil, &fs.PathError{Op: "read", Path: name, Err: errors.Unwrap(err)}
		}
		if n == 0 {
			return b, nil
		}
		b = b[:len(b)+n]
	}
	return nil, &fs.PathError{Op: "read", Path: name, Err: syscall.EFBIG}
}

// ReadRecord is ReadFile of a file that the kernel gives as a whole (stat, status,
// fdinfo, syscall, cgroup; not locks, maps or mountinfo): a read that leaves room
// in the buffer was all of it. The result uses buf's memory if that is enough.
func (p *Proc) ReadRecord(name string, buf []byte) ([]byte, error) {
	fd, err := p.open(name)
	if err != nil {
		return nil, err
	}
	defer linux.Close(fd)
	if buf, err = readRecord(fd, buf[:0]); err != nil {
		return nil, &fs.PathError{Op: "read", Path: "/proc/" + name, Err: errors.Unwrap(err)}
	}
	return buf, nil
}

// readRecord reads to the end, which is where a read leaves room in the buffer.
func readRecord(fd int, buf []byte) ([]byte, error) {
	for len(buf) < maxFile {
		if len(buf) == cap(buf) {
			buf = append(make([]byte, 0, max(512, 4*cap(buf))), buf...)
		}
		n, err := linux.Read(fd, buf[len(buf):cap(buf)])
		if err != nil {
			return nil, err
		}
		if buf = buf[:len(buf)+n]; n == 0 || len(buf) < cap(buf) {
			return buf, nil
		}
	}
	return nil, fmt.Errorf("read: %w", syscall.EFBIG)
}

// names lists a directory of the procfs, without "." and "..".
func (p *Proc) names(name string) ([]string, error) {
	fd, err := linux.Openat(p.fd, name, linux.O_RDONLY|linux.O_DIRECTORY, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: "/proc/" + name, Err: errors.Unwrap(err)}
	}
	defer linux.Close(fd)
	var list []string
	var array [8 << 10]byte
	buf := array[:]
	for {
		n, err := linux.Getdents(fd, buf)
		if err != nil || n == 0 {
			return list, err
		}
		list = appendNames(list, buf[:n])
	}
}

// appendNames takes the names out of struct linux_dirent64 records, getdents64(2).
func appendNames(list []string, b []byte) []string {
	const header = 19 // d_ino 8, d_off 8, d_reclen 2, d_type 1
	for len(b) > header {
		size := int(binary.NativeEndian.Uint16(b[16:]))
		if size <= header || size > len(b) {
			return list
		}
		name, _, _ := strings.Cut(string(b[header:size]), "\x00")
		if name != "." && name != ".." {
			list = append(list, name)
		}
		b = b[size:]
	}
	return list
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
	if id.InitStart, err = p.ticks(st); err != nil {
		return id, err
	}
	realtime, boottime, err := p.Clocks()
	if err != nil {
		return id, err
	}
	id.Offset = realtime - boottime
	return id, nil
}

// Readlink reads a link of the procfs: "self/ns/pid".
func (p *Proc) Readlink(name string) (string, error) { return linux.Readlinkat(p.fd, name) }

// tick is a clock tick of /proc, USER_HZ, in nanoseconds.
const tick = 1e9 / 100

// ticks is when a process started, in clock ticks after the boot. The kernel adds
// what the reader's time namespace adds to CLOCK_BOOTTIME (time_namespaces(7)):
// it is taken off, so that all readers of a machine see the same.
func (p *Proc) ticks(st Stat) (uint64, error) {
	shift, err := p.bootShift()
	return st.Start - uint64(shift/tick), err
}

// Clocks reads CLOCK_REALTIME and CLOCK_BOOTTIME in nanoseconds, one right after
// the other, the latter as start times count it: without what our time namespace
// adds.
func (p *Proc) Clocks() (realtime, boottime int64, err error) {
	shift, err := p.bootShift()
	if err != nil {
		return 0, 0, err
	}
	realtime, boottime, err = linux.Clocks()
	return realtime, boottime - shift, err
}

// bootShift is what our time namespace adds to CLOCK_BOOTTIME, in nanoseconds.
func (p *Proc) bootShift() (int64, error) {
	p.shiftOnce.Do(func() { p.shift, p.shiftErr = p.readBootShift() })
	return p.shift, p.shiftErr
}

func (p *Proc) readBootShift() (int64, error) {
	text, err := p.ReadFile("self/timens_offsets")
	if gone(err) {
		return 0, nil // Linux before 5.6, or without time namespaces
	}
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "boottime" {
			sec, err1 := strconv.ParseInt(f[1], 10, 64)
			nsec, err2 := strconv.ParseInt(f[2], 10, 64)
			if err := errors.Join(err1, err2); err != nil {
				return 0, fmt.Errorf("/proc/self/timens_offsets: %w", err)
			}
			if nsec%tick != 0 {
				// Start times are rounded behind it: they could be off by one.
				return 0, fmt.Errorf("the time namespace has an offset of %d.%09d s, which is no whole clock tick: start times cannot be told", sec, nsec)
			}
			return sec*1e9 + nsec, nil
		}
	}
	return 0, nil
}
