// Package specifier expands the % specifiers of tmpfiles.d(5).
//
// A [Resolver] looks things up when they are first asked for, and once. What it
// may look at is passed in: files through Open, below the root that is worked
// on, and System, those of the running system. It is not safe for concurrent
// use.
//
// The kinds of failure have outcomes of their own:
//
//	ErrUnknown        no such specifier: the line is wrong, status 65
//	ErrUnresolvable   not known here (yet): the line is skipped, status 0
//	ErrBadText        os-release holds what is no text: status 65
//	any other         something is broken: an explicit file fails with status 1
//
// The behaviour is that of systemd-tmpfiles 262, measured: an unknown letter or
// digit is an error, but a % before anything else, or at the end, stands for
// itself; with --root the temporary directories come from no environment; %H,
// %l, %q, %b and %v are always the running system's; in system mode %u, %U, %g
// and %G are root's whoever calls.
package specifier

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// The outcomes that a caller tells apart.
var (
	ErrUnknown      = errors.New("unknown specifier")
	ErrUnresolvable = errors.New("specifier cannot be resolved here")
	// ErrTooLong is ENAMETOOLONG.
	ErrTooLong error = tooLong{}
)

type tooLong struct{}

func (tooLong) Error() string { return "expanded text is too long: " + syscall.ENAMETOOLONG.Error() }
func (tooLong) Unwrap() error { return syscall.ENAMETOOLONG }

// Resolver knows what specifiers stand for.
type Resolver struct {
	// Rooted says that another root than the running system's is worked on.
	Rooted bool
	// User is --user.
	User bool
	// Open opens a file below the root that is worked on, System one of the
	// running system.
	Open, System func(path string) (io.ReadCloser, error)
	Getenv       func(string) string
	// UserName, GroupName and Home look up the caller's own entries, in user
	// mode. Home is asked in system mode too, where $HOME is not usable.
	UserName, GroupName func(id uint32) (string, error)
	Home                func(uid uint32) (string, error)

	osRelease map[string]string
	osErr     error
	boot      string
	machineID string
	midErr    error
}

// Expand replaces the specifiers in s. A result of more than limit bytes is
// ErrTooLong; limit 0 is none.
func (r *Resolver) Expand(s string, limit int) (string, error) {
	if strings.IndexByte(s, '%') < 0 {
		if limit > 0 && len(s) > limit {
			return "", ErrTooLong
		}
		return s, nil
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		c := s[i]
		if c == '%' {
			b.WriteByte('%')
			continue
		}
		if !alnum(c) {
			b.WriteByte('%')
			b.WriteByte(c)
			continue
		}
		v, err := r.lookup(c)
		if err != nil {
			return "", fmt.Errorf("%%%c: %w", c, err)
		}
		b.WriteString(v)
		if limit > 0 && b.Len() > limit {
			break
		}
	}
	if limit > 0 && b.Len() > limit {
		return "", ErrTooLong
	}
	return b.String(), nil
}

func alnum(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

func (r *Resolver) lookup(c byte) (string, error) {
	switch c {
	case 'a':
		return architecture()
	case 'A':
		return r.osField("IMAGE_VERSION")
	case 'B':
		return r.osField("BUILD_ID")
	case 'M':
		return r.osField("IMAGE_ID")
	case 'o':
		return r.osField("ID")
	case 'w':
		return r.osField("VERSION_ID")
	case 'W':
		return r.osField("VARIANT_ID")
	case 'b':
		return r.bootID()
	case 'm':
		return r.machine()
	case 'H':
		return hostname()
	case 'l':
		return shortHostname()
	case 'q':
		return r.prettyHostname()
	case 'v':
		return r.kernelRelease()
	case 'h':
		return r.home()
	case 'g', 'G', 'u', 'U':
		return r.caller(c)
	case 'T':
		return r.temporary("/tmp"), nil
	case 'V':
		return r.temporary("/var/tmp"), nil
	case 'C', 'D', 'L', 'S', 't':
		return r.directory(c)
	}
	return "", ErrUnknown
}

// architecture names the machine as ConditionArchitecture= of systemd.unit(5)
// does.
func architecture() (string, error) {
	switch runtime.GOARCH {
	case "amd64":
		return "x86-64", nil
	case "386":
		return "x86", nil
	case "arm64", "arm", "riscv64", "s390x", "ppc64", "mips64", "mips":
		return runtime.GOARCH, nil
	case "ppc64le":
		return "ppc64-le", nil
	case "mips64le":
		return "mips64-le", nil
	case "mipsle":
		return "mips-le", nil
	case "loong64":
		return "loongarch64", nil
	}
	return "", ErrUnresolvable
}

func (r *Resolver) osField(key string) (string, error) {
	if r.osRelease == nil && r.osErr == nil {
		r.osRelease, r.osErr = r.readOSRelease()
	}
	return r.osRelease[key], r.osErr
}

// readOSRelease reads os-release(5), which is in /etc or else in /usr/lib.
func (r *Resolver) readOSRelease() (map[string]string, error) {
	for _, path := range []string{"/etc/os-release", "/usr/lib/os-release"} {
		text, err := readFile(r.Open, path, maxEnvFile)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		m, err := parseEnv(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return m, nil
	}
	return nil, fmt.Errorf("%w: no os-release file", ErrUnresolvable)
}

// readFile reads at most limit bytes of a file.
func readFile(open func(string) (io.ReadCloser, error), path string, limit int) (string, error) {
	f, err := open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, int64(limit)))
	return string(text), err
}

func firstLine(open func(string) (io.ReadCloser, error), path string) (string, error) {
	text, err := readFile(open, path, 4096)
	line, _, _ := strings.Cut(text, "\n")
	return line, err
}

func (r *Resolver) bootID() (string, error) {
	if r.boot == "" {
		id, err := firstLine(r.System, "/proc/sys/kernel/random/boot_id")
		if err != nil {
			return "", err
		}
		r.boot = strings.ReplaceAll(id, "-", "")
	}
	return r.boot, nil
}

func (r *Resolver) kernelRelease() (string, error) {
	return firstLine(r.System, "/proc/sys/kernel/osrelease")
}

// errMachineID is what is said of a file that holds something else.
var errMachineID = errors.New("/etc/machine-id does not hold 32 hexadecimal digits")

func (r *Resolver) machine() (string, error) {
	if r.machineID == "" && r.midErr == nil {
		r.machineID, r.midErr = r.readMachineID()
	}
	return r.machineID, r.midErr
}

// readMachineID reads machine-id(5). Missing, empty, "uninitialized" and all
// zeroes mean that there is none yet. Nothing but one newline may follow it.
func (r *Resolver) readMachineID() (string, error) {
	text, err := readFile(r.Open, "/etc/machine-id", 64)
	id := strings.TrimSuffix(text, "\n")
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && (text == "" || id == "uninitialized" || id == strings.Repeat("0", 32)):
		return "", fmt.Errorf("%w: /etc/machine-id is not initialized", ErrUnresolvable)
	case err != nil:
		return "", err
	case len(id) != 32 || strings.Trim(id, "0123456789abcdefABCDEF") != "":
		return "", errMachineID
	}
	return strings.ToLower(id), nil
}

// hostname is the kernel's host name, or what is meant while nobody has set one
// ("(none)" is what the kernel starts with).
func hostname() (string, error) {
	name, err := os.Hostname()
	if err == nil && (name == "" || name == "(none)") {
		name = "localhost"
	}
	return name, err
}

// shortHostname is the host name up to its first dot.
func shortHostname() (string, error) {
	name, err := hostname()
	short, _, _ := strings.Cut(name, ".")
	if err == nil && short == "" {
		short = "localhost"
	}
	return short, err
}

func (r *Resolver) prettyHostname() (string, error) {
	if text, err := readFile(r.System, "/etc/machine-info", maxEnvFile); err == nil {
		if m, err := parseEnv(text); err == nil && m["PRETTY_HOSTNAME"] != "" {
			return m["PRETTY_HOSTNAME"], nil
		}
	}
	return shortHostname()
}

// home is $HOME if that is an absolute path, without its empty and "."
// components, else the caller's own. ".." stays: what it means depends on links.
func (r *Resolver) home() (string, error) {
	if h := r.Getenv("HOME"); strings.HasPrefix(h, "/") {
		return simplify(h), nil
	}
	switch uid := uint32(os.Getuid()); uid {
	case 0:
		return "/root", nil
	case 65534: // nobody has none (UID_NOBODY in the reference)
		return "/", nil
	default:
		return r.Home(uid)
	}
}

func simplify(path string) string {
	var b strings.Builder
	for part := range strings.SplitSeq(path, "/") {
		if part != "" && part != "." {
			b.WriteString("/" + part)
		}
	}
	if b.Len() == 0 {
		return "/"
	}
	return b.String()
}

// caller is root in system mode, whoever calls. A user or group without a name
// is called by its number.
func (r *Resolver) caller(c byte) (string, error) {
	uid, gid := uint32(0), uint32(0)
	if r.User {
		uid, gid = uint32(os.Getuid()), uint32(os.Getgid())
	}
	id, lookup := uid, r.UserName
	if c == 'g' || c == 'G' {
		id, lookup = gid, r.GroupName
	}
	if c == 'u' || c == 'g' {
		if id == 0 {
			return "root", nil
		}
		if name, err := lookup(id); err == nil && name != "" {
			return name, nil
		}
	}
	return strconv.FormatUint(uint64(id), 10), nil
}

// temporary takes the first of the three variables that names a directory by a
// normalized absolute path: without ".", ".." and empty components, but for one
// slash at the end.
func (r *Resolver) temporary(fallback string) string {
	if r.Rooted {
		return fallback
	}
	for _, v := range []string{"TMPDIR", "TEMP", "TMP"} {
		dir := r.Getenv(v)
		if !strings.HasPrefix(dir, "/") || strings.Contains(dir+"/", "/../") || strings.Contains(dir+"/", "/./") ||
			strings.Contains(dir, "//") {
			continue
		}
		if st, err := os.Stat(dir); err == nil && st.IsDir() {
			return dir
		}
	}
	return fallback
}

// xdg is a directory of --user: the variable that names it, the place below $HOME
// where that is unset, and what is behind either.
func xdg(c byte) (variable, below, tail string) {
	switch c {
	case 'C':
		return "XDG_CACHE_HOME", ".cache", ""
	case 'D':
		return "XDG_DATA_HOME", ".local/share", ""
	case 'L':
		return "XDG_STATE_HOME", ".local/state", "/log"
	}
	return "XDG_STATE_HOME", ".local/state", "" // S
}

func (r *Resolver) directory(c byte) (string, error) {
	if !r.User {
		switch c {
		case 'C':
			return "/var/cache", nil
		case 'D':
			return "/usr/share", nil
		case 'L':
			return "/var/log", nil
		case 'S':
			return "/var/lib", nil
		}
		return "/run", nil
	}
	if c == 't' {
		if dir := r.Getenv("XDG_RUNTIME_DIR"); strings.HasPrefix(dir, "/") {
			return dir, nil
		}
		return "", fmt.Errorf("%w: $XDG_RUNTIME_DIR is not set", ErrUnresolvable)
	}
	variable, below, tail := xdg(c)
	if dir := r.Getenv(variable); strings.HasPrefix(dir, "/") {
		return dir + tail, nil
	}
	home, err := r.home()
	if err != nil {
		return "", err
	}
	return strings.TrimSuffix(home, "/") + "/" + below + tail, nil
}
