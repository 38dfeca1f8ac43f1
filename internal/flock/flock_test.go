package flock

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

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
	waiter, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer waiter.Close()
	reported := make(chan error, 100)
	done := make(chan error)
	go func() {
		done <- waiter.Lock(Wait{Limit: time.Hour, Every: time.Millisecond, Report: func(ctx context.Context) {
			_, err := waiter.Holders(ctx)
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
	// The one that timed out has its place before this one's: the program would end.
	linux.Close(late.fd)
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
