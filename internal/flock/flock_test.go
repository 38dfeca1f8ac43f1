package flock

import (
	"context"
	"errors"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/testenv"
)

func TestParseOffset(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "00": 0, "7": 7, " 7": 7, "+7": 7, "010": 8, "0x1F": 31, "1k": 1024, "1KiB": 1024, "1kB": 1000, "1.5K": 1536,
		"1.K": 1024, "1.25G": 1342177280, "0.1K": 102, "7E": 7 << 60, "9223372036854775807": math.MaxInt64,
		"9223372036854775808": math.MinInt64, "8E": math.MinInt64, "18446744073709551615": -1,
		"1.99999999999999999999999999K": 2047, "15.9E": -115292150460684698, "0.3333333333333333333E": 384307168202282325,
	} {
		if got, err := ParseOffset(text); got != want || err != nil {
			t.Errorf("%q: %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", " ", "+", "-1", "-0", "K", "x", "08", "0x", "5 ", "1.5", "1.", "1e3", "1B", "1Ki", "1 K", ".5K", "1,5K", "16E", "1Z",
		"18446744073709551616", "1_0", "++1", "15.9999999999999999999E1"} {
		if got, err := ParseOffset(text); err == nil {
			t.Errorf("%q: %d, want an error", text, got)
		}
	}
}

func TestParseSeconds(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0": 0, "-0": 0, "1": time.Second, " 1": time.Second, "+1": time.Second, "1.": time.Second, ".5": time.Second / 2,
		"1e3": 1000 * time.Second, "0x10": 16 * time.Second, "0X1P-3": time.Second / 8, "1e-7": 0, "-1e-9": 0, "1e-400": 0,
		"9e18": math.MaxInt64, "1.0000019": time.Second + time.Microsecond,
	} {
		if got, err := ParseSeconds(text); got != want || err != nil {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"-1", "-0.5", "inf", "-inf", "nan", "INFINITY", "1e400", "1e19"} {
		if got, err := ParseSeconds(text); !errors.Is(err, ErrNegative) {
			t.Errorf("%q: %v, %v; want ErrNegative", text, got, err)
		}
	}
	for _, text := range []string{"", "x", "1s", "1 ", "1_0", "0x_1p0", "1,5", ".", "e5", "0x", "--1", "1e"} {
		if got, err := ParseSeconds(text); err == nil || errors.Is(err, ErrNegative) {
			t.Errorf("%q: %v, %v; want an error", text, got, err)
		}
	}
}

// What others put into the directory of names is refused, and left as it is.
func TestOpenNameRefuses(t *testing.T) {
	uid := uint32(os.Geteuid())
	outside := filepath.Join(t.TempDir(), "outside")
	write := func(path string) error { return os.WriteFile(path, []byte("text"), 0o600) }
	for name, plant := range map[string]func(dir, file string) error{
		"a link to a file":      func(_, file string) error { return errors.Join(write(outside), os.Symlink(outside, file)) },
		"a link to nothing":     func(_, file string) error { return os.Symlink("nothing", file) },
		"a link to itself":      func(_, file string) error { return os.Symlink(file, file) },
		"a FIFO":                func(_, file string) error { return syscall.Mkfifo(file, 0o666) },
		"a directory":           func(_, file string) error { return os.Mkdir(file, 0o700) },
		"a second name":         func(dir, file string) error { return errors.Join(write(dir+"/pid"), os.Link(dir+"/pid", file)) },
		"a directory for all":   func(dir, _ string) error { return os.Chmod(dir, 0o777) },
		"a directory for some":  func(dir, _ string) error { return os.Chmod(dir, 0o770) },
		"another one's file":    func(_, file string) error { return errors.Join(write(file), os.Chown(file, 65534, 65534)) },
		"another one's sticky":  func(dir, _ string) error { return errors.Join(os.Chmod(dir, 0o1777), os.Chown(dir, 65533, 0)) },
		"a device":              func(_, file string) error { return syscall.Mknod(file, syscall.S_IFCHR|0o666, 1<<8|3) },
		"another one's own one": func(dir, _ string) error { return os.Chown(dir, 65533, 65533) },
	} {
		t.Run(name, func(t *testing.T) {
			if strings.Contains(name, "another") || strings.Contains(name, "device") {
				testenv.Need(t, testenv.Root)
			}
			dir := filepath.Join(t.TempDir(), "lock")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			file := dir + "/name"
			if err := plant(dir, file); err != nil {
				t.Fatal(err)
			}
			before, _ := os.Lstat(file)
			f, err := OpenName(dir, "name", uid, Options{})
			if f != nil || !errors.Is(err, ErrUntrusted) {
				t.Errorf("%v, %v; want ErrUntrusted", f, err)
			}
			after, _ := os.Lstat(file)
			if (before == nil) != (after == nil) || before != nil && !os.SameFile(before, after) {
				t.Errorf("before %v, after %v", before, after)
			}
		})
	}
	if _, err := OpenName(filepath.Join(t.TempDir(), "missing"), "name", uid, Options{}); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("a directory that is missing: %v", err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(t.TempDir(), link); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenName(link, "name", uid, Options{}); err == nil {
		t.Error("a directory that is a link is taken")
	}
}

func TestOpenName(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o1777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	f, err := OpenName(dir, "name", uint32(os.Geteuid()), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Lock(Wait{}); err != nil {
		t.Fatal(err)
	}
	st, err := os.Lstat(dir + "/name")
	if err != nil || st.Mode() != 0o600 {
		t.Errorf("%v, %v", st, err)
	}
	g, err := OpenName(dir, "name", uint32(os.Geteuid()), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if err := g.Lock(Wait{}); !errors.Is(err, ErrHeld) {
		t.Errorf("a second one: %v", err)
	}
	for _, name := range []string{"", ".", "..", ".x", "a/b", "a\nb", "\x7f", "LCK..ttyS0", strings.Repeat("x", 256), "a\x00b"} {
		if CheckName(name) == nil {
			t.Errorf("%q is a name", name)
		}
	}
	for _, name := range []string{"a", "a.b", "ö", "LCK", "-n", strings.Repeat("x", 255)} {
		if err := CheckName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// A descriptor of the runtime's, one that is not open, and what the runtime put in
// place of a closed one are none to lock.
func TestOfDescriptorRefuses(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "F")) // close-on-exec
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, fd := range []int{int(f.Fd()), -1, 1 << 20} {
		if _, err := OfDescriptor(fd, Options{}); !errors.Is(err, syscall.EBADF) {
			t.Errorf("descriptor %d: %v", fd, err)
		}
	}
	if _, err := OfDescriptor(0, Options{Fair: true, Record: true, Start: math.MaxInt64 - 1, Length: 1}); !errors.Is(err, ErrRange) {
		t.Errorf("the turnstile: %v", err)
	}
}

// Lock comes back at its time, or with the lock; the holders are told meanwhile.
func TestWait(t *testing.T) {
	path := filepath.Join(t.TempDir(), "F")
	holder, err := Open(path, Options{})
	if err == nil {
		err = holder.Lock(Wait{})
	}
	if err != nil {
		t.Fatal(err)
	}
	late, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := late.Lock(Wait{Limit: time.Millisecond}); !errors.Is(err, ErrTimeout) {
		t.Errorf("at the end of the limit: %v", err)
	}
	defer late.Close() // it is still open, and must not be in the queue
	waiter, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer waiter.Close()
	reported := make(chan error, 100)
	done := make(chan error)
	go func() {
		done <- waiter.Lock(Wait{Limit: time.Hour, Every: time.Millisecond, Report: func(ctx context.Context) {
			request, _ := waiter.Request()
			_, err := Look(ctx, request, -1)
			select {
			case reported <- err:
			default:
			}
		}})
	}()
	for range 3 {
		if err := <-reported; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	holder.Close()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Error("it waits for ever")
	}
}

// At the end of the limit nobody is left in the queue: the lock, which is free a
// moment later, does not come to an open file description that others share.
func TestTimeoutLeavesNothingInTheQueue(t *testing.T) {
	for name, o := range map[string]Options{"flock": {}, "shared": {Shared: true}, "fcntl": {Record: true}, "fair": {Fair: true}, "fair fcntl": {Fair: true, Record: true}} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "F")
			exclusive := o
			exclusive.Shared = false
			for range 20 {
				holder, err := Open(path, exclusive)
				if err == nil {
					err = holder.Lock(Wait{})
				}
				if err != nil {
					t.Fatal(err)
				}
				fd, err := syscall.Open(path, syscall.O_RDWR, 0) // as a shell has it
				if err != nil {
					t.Fatal(err)
				}
				inherited, err := OfDescriptor(fd, o)
				if err != nil {
					t.Fatal(err)
				}
				if err := inherited.Lock(Wait{Limit: time.Microsecond}); !errors.Is(err, ErrTimeout) {
					t.Fatalf("%v, want ErrTimeout", err)
				}
				holder.Close()
				other, err := Open(path, exclusive)
				if err == nil {
					err = other.Lock(Wait{})
				}
				if err != nil {
					t.Errorf("after the timeout: %v", err)
				}
				other.Close()
				inherited.Close()
			}
		})
	}
}

// The queue of fair mode is not left locked on a descriptor that others keep: see
// also test/locktest.
func TestFairDescriptor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "F")
	open := func(flags int) int {
		fd, err := syscall.Open(path, flags|syscall.O_CREAT, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { syscall.Close(fd) })
		return fd
	}
	f, err := OfDescriptor(open(syscall.O_RDONLY), Options{Fair: true})
	if err != nil {
		t.Fatalf("a descriptor for reading of a file that we may write to: %v", err)
	}
	if err := f.Lock(Wait{}); err != nil {
		t.Error(err)
	}
	var pipe [2]int
	if err := syscall.Pipe(pipe[:]); err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(pipe[0])
	defer syscall.Close(pipe[1])
	if _, err := OfDescriptor(pipe[0], Options{Fair: true}); !errors.Is(err, ErrNoQueue) {
		t.Errorf("a pipe: %v, want ErrNoQueue", err)
	}
	testenv.Need(t, testenv.NonRoot)
	fd := open(syscall.O_RDONLY)
	if err := os.Chmod(path, 0o400); err != nil {
		t.Fatal(err)
	}
	if _, err := OfDescriptor(fd, Options{Fair: true}); !errors.Is(err, ErrNoQueue) || !errors.Is(err, syscall.EACCES) {
		t.Errorf("a file that we may not write to: %v, want ErrNoQueue", err)
	}
}

// Names that others chose do not draw on the terminal.
func TestMessagesAreVisible(t *testing.T) {
	h := Holders{Unseen: true, Incomplete: []string{"the descriptors of 7 (\x1b]0;x\a\u202e\u009b)"}}
	if s := h.String(); strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Errorf("%q", s)
	}
	h = Holders{Processes: []Holder{{}}}
	h.Processes[0].Comm = "\x1b[2J\xff"
	if s := h.String(); !strings.Contains(s, "(?[2J?)") {
		t.Errorf("%q", s)
	}
}

// A FIFO at the name keeps nobody: neither one that is put there after the look at
// it, nor one that takes the place of the file during the wait.
func TestNameIsFIFO(t *testing.T) {
	dir := t.TempDir()
	uid := uint32(os.Geteuid())
	f, err := OpenName(dir, "name", uid, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.Close()
	if err := os.Remove(dir + "/name"); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(dir+"/name", 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.Lock(Wait{Limit: Forever}); !errors.Is(err, ErrUntrusted) { // opens anew, without the first look
		t.Errorf("%v, want ErrUntrusted", err)
	}
	// A file of no name that was replaced is opened without waiting too.
	g, err := Open(dir+"/other", Options{})
	if err != nil {
		t.Fatal(err)
	}
	g.Close()
	if err := errors.Join(os.Remove(dir+"/other"), syscall.Mkfifo(dir+"/other", 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := g.Lock(Wait{Limit: Forever}); err != nil {
		t.Error(err)
	}
	g.Close()
}

// A file that others may open is no lock by name where they can get at it.
func TestNameThatOthersCanOpen(t *testing.T) {
	for _, c := range []struct {
		dir, file os.FileMode
		refused   bool
	}{{0o755, 0o644, true}, {0o755, 0o620, true}, {0o700, 0o644, false}, {0o755, 0o600, false}, {0o710, 0o604, true}} {
		dir := t.TempDir()
		if err := errors.Join(os.WriteFile(dir+"/name", nil, 0o600), os.Chmod(dir+"/name", c.file), os.Chmod(dir, c.dir)); err != nil {
			t.Fatal(err)
		}
		f, err := OpenName(dir, "name", uint32(os.Geteuid()), Options{})
		if errors.Is(err, ErrUntrusted) != c.refused || !c.refused && err != nil {
			t.Errorf("directory %o, file %o: %v, refused %v wanted", c.dir, c.file, err, c.refused)
		}
		if f != nil {
			f.Close()
		}
	}
}

// What is told of a file is who holds it: by its path, by a name, by a descriptor, and
// not to whom it is told.
func TestLook(t *testing.T) {
	dir := t.TempDir()
	byPath, err := Open(dir+"/a file", Options{Shared: true})
	if err != nil {
		t.Fatal(err)
	}
	defer byPath.Close()
	byName, err := OpenName(dir, "a file", uint32(os.Geteuid()), Options{Record: true, Start: 3, Length: 4})
	if err != nil {
		if err := os.Chmod(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if byName, err = OpenName(dir, "a file", uint32(os.Geteuid()), Options{Record: true, Start: 3, Length: 4}); err != nil {
			t.Fatal(err)
		}
	}
	defer byName.Close()
	fd, err := syscall.Open(dir+"/a file", syscall.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	byDescriptor, err := OfDescriptor(fd, Options{})
	if err != nil {
		t.Fatal(err)
	}
	// cat holds what it inherits.
	holder, err := os.OpenFile(dir+"/a file", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := linux.Flock(int(holder.Fd()), linux.LOCK_EX|linux.LOCK_NB); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.ExtraFiles = []*os.File{holder}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer in.Close()
	holder.Close()
	for name, f := range map[string]*File{"path": byPath, "name": byName, "descriptor": byDescriptor} {
		request, fd := f.Request()
		if fd >= 0 {
			if fd, err = syscall.Dup(fd); err != nil {
				t.Fatal(err)
			}
			defer func(fd int) {
				if _, err := linux.StatusFlags(fd); !errors.Is(err, syscall.EBADF) {
					t.Errorf("%s: descriptor %d was not closed", name, fd)
				}
			}(fd)
		}
		h, err := Look(t.Context(), request, fd)
		want := 1
		if name == "name" { // asks for another kind of lock
			want = 0
		}
		if err != nil || len(h.Processes) != want || want == 1 && h.Processes[0].PID != cmd.Process.Pid {
			t.Errorf("%s: %+v, %v; want %d process, %d", name, h, err, want, cmd.Process.Pid)
		}
		if _, err := Look(t.Context(), "nonsense", -1); err == nil {
			t.Error("nonsense is a request")
		}
	}
}
