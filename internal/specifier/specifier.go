// Package specifier expands the % specifiers of tmpfiles.d(5).
//
// A [Resolver] looks things up when they are first asked for, and once. What it
// may look at is passed in: files through Open, below the root that is worked
// on, and System, those of the running system. It is not safe for concurrent
// use.
//
// There are three kinds of failure, because they have three outcomes:
//
//	ErrUnknown        no such specifier: the line is wrong, status 65
//	ErrUnresolvable   not known here (yet): the line is skipped, status 0
//	any other         something is broken: an explicit file fails with status 1
//
// The behaviour is that of systemd-tmpfiles 262, measured: an unknown letter or
// digit is an error, but a % before anything else, or at the end, stands for
// itself; with --root the temporary directories come from no environment; %H,
// %l, %q, %b and %v are always the running system's; in system mode %u, %U, %g
// and %G are root's whoever calls.
package specifier

import (
	"bufio"
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
	ErrTooLong      = fmt.Errorf("expanded text is too long: %w", syscall.ENAMETOOLONG)
)

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
		return os.Hostname()
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
		f, err := r.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return parseEnv(f)
	}
	return nil, fmt.Errorf("%w: no os-release file", ErrUnresolvable)
}

// parseEnv reads KEY=VALUE lines with shell quoting, as os-release(5) and
// machine-info(5) have them.
func parseEnv(rd io.Reader) (map[string]string, error) {
	m := make(map[string]string)
	sc := bufio.NewScanner(io.LimitReader(rd, 1<<20))
	for sc.Scan() {
		line := strings.TrimSpace(sc.Text())
		key, value, ok := strings.Cut(line, "=")
		if !ok || strings.HasPrefix(line, "#") {
			continue
		}
		m[strings.TrimSpace(key)] = unquote(strings.TrimSpace(value))
	}
	return m, sc.Err()
}

// unquote removes one pair of quotes and, but for single quotes, the
// backslashes before characters that the shell would treat.
func unquote(s string) string {
	if len(s) >= 2 && s[0] == '\'' && s[len(s)-1] == '\'' {
		return s[1 : len(s)-1]
	}
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		s = s[1 : len(s)-1]
	}
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func firstLine(open func(string) (io.ReadCloser, error), path string) (string, error) {
	f, err := open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	buf := make([]byte, 4096)
	n, err := io.ReadFull(f, buf)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return "", err
	}
	line, _, _ := strings.Cut(string(buf[:n]), "\n")
	return line, nil
}

func (r *Resolver) bootID() (string, error) {
	id, err := firstLine(r.System, "/proc/sys/kernel/random/boot_id")
	return strings.ReplaceAll(id, "-", ""), err
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
// zeroes mean that there is none yet.
func (r *Resolver) readMachineID() (string, error) {
	id, err := firstLine(r.Open, "/etc/machine-id")
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && (id == "" || id == "uninitialized" || id == strings.Repeat("0", 32)):
		return "", fmt.Errorf("%w: /etc/machine-id is not initialized", ErrUnresolvable)
	case err != nil:
		return "", err
	case len(id) != 32 || strings.Trim(strings.ToLower(id), "0123456789abcdef") != "":
		return "", errMachineID
	}
	return strings.ToLower(id), nil
}

func shortHostname() (string, error) {
	name, err := os.Hostname()
	short, _, _ := strings.Cut(name, ".")
	return short, err
}

func (r *Resolver) prettyHostname() (string, error) {
	if f, err := r.System("/etc/machine-info"); err == nil {
		defer f.Close()
		if m, err := parseEnv(f); err == nil && m["PRETTY_HOSTNAME"] != "" {
			return m["PRETTY_HOSTNAME"], nil
		}
	}
	return shortHostname()
}

// home is $HOME if that is an absolute path, else the caller's own.
func (r *Resolver) home() (string, error) {
	if h := r.Getenv("HOME"); strings.HasPrefix(h, "/") {
		return h, nil
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

func (r *Resolver) caller(c byte) (string, error) {
	uid, gid := uint32(0), uint32(0)
	if r.User {
		uid, gid = uint32(os.Getuid()), uint32(os.Getgid())
	}
	switch c {
	case 'U':
		return strconv.FormatUint(uint64(uid), 10), nil
	case 'G':
		return strconv.FormatUint(uint64(gid), 10), nil
	case 'u':
		if uid == 0 {
			return "root", nil
		}
		return r.UserName(uid)
	}
	if gid == 0 {
		return "root", nil
	}
	return r.GroupName(gid)
}

// temporary takes the first of the three variables that names a directory by an
// absolute path without "..".
func (r *Resolver) temporary(fallback string) string {
	if r.Rooted {
		return fallback
	}
	for _, v := range []string{"TMPDIR", "TEMP", "TMP"} {
		dir := r.Getenv(v)
		if !strings.HasPrefix(dir, "/") || strings.Contains(dir+"/", "/../") || strings.Contains(dir+"/", "/./") {
			continue
		}
		if st, err := os.Stat(dir); err == nil && st.IsDir() {
			return dir
		}
	}
	return fallback
}

// xdg are the directories of --user: variable, and place below $HOME.
var xdg = map[byte][3]string{
	'C': {"XDG_CACHE_HOME", ".cache", ""},
	'D': {"XDG_DATA_HOME", ".local/share", ""},
	'S': {"XDG_STATE_HOME", ".local/state", ""},
	'L': {"XDG_STATE_HOME", ".local/state", "/log"},
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
	x := xdg[c]
	if dir := r.Getenv(x[0]); strings.HasPrefix(dir, "/") {
		return dir + x[2], nil
	}
	home, err := r.home()
	if err != nil {
		return "", err
	}
	return strings.TrimSuffix(home, "/") + "/" + x[1] + x[2], nil
}
